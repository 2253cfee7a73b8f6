"""States in page routes: several at once, next to other parameters, only for those logged in, per record."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fasthtml.common import H2, Button, Div, Main, P, RedirectResponse, Span
from pydantic import Field
from starlette.responses import JSONResponse

from faststate_asgi import (
    FastStateMiddleware,
    Live,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    auth_beforeware,
    event,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class UserPreferences(ReactiveState):
    """What a visitor likes."""

    theme: str = "light"

    @event
    def update_theme(self, theme: str) -> None:
        """Take a theme."""
        self.theme = theme


class ShoppingCart(ReactiveState):
    """A cart that also has a theme, the gift wrapping's."""

    theme: str = "plain paper"
    items: list[str] = Field(default_factory=list)
    total: int = 0

    @event
    def add(self, name: str, price: int) -> None:
        """Add one item."""
        self.items.append(name)
        self.total += price


class UserProfile(ReactiveState):
    """Who a user is."""

    name: str = ""
    email: str = ""


class DocumentEditor(ReactiveState):
    """One document of many."""

    content: str = ""
    last_saved: datetime | None = None
    is_dirty: bool = False

    @event
    def update_content(self, content: str) -> None:
        """Change the text."""
        self.content = content
        self.is_dirty = True

    @event
    def save_document(self) -> None:
        """Remember when it was saved."""
        self.last_saved = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
        self.is_dirty = False


@pytest.fixture
def dashboard(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """A page with two states that share a field name."""
    registry.register(UserPreferences)
    registry.register(ShoppingCart, StateConfig(namespace="cart"))
    app, rt = new_app()

    @rt("/dashboard")
    def show(user_prefs: UserPreferences, cart: ShoppingCart) -> Any:
        return Main(
            Live(user_prefs, cart),
            Div("Theme: ", Span(user_prefs.theme, data_text=UserPreferences.signal.theme), id="preferences"),
            Div(
                P(f"Items: {len(cart.items)}", id="items"),
                P("Total: ", Span(cart.total, data_text=cart.signal.total), id="total"),
                id="cart",
            ),
        )

    return wrap(app)


async def test_a_dashboard_shows_two_states_at_once(dashboard: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(dashboard) as client:
        await client.call(UserPreferences.update_theme, "dark")
        await client.call(ShoppingCart.add, "Tea", 450)
        await client.call(ShoppingCart.add, "Cup", 1200)
        page = read_page(await client.get("/dashboard"))
    assert page.one("div", id="preferences").text == "Theme: dark"
    assert page.one("p", id="items").text == "Items: 2"
    assert page.one("p", id="total").text == "Total: 1650"


async def test_a_namespace_keeps_equal_field_names_apart(dashboard: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(dashboard) as client:
        answer = await client.call(ShoppingCart.add, "Tea", 450)
        page = read_page(await client.get("/dashboard"))
    assert answer.signals == {"cart": {"items": ["Tea"], "total": 450}}
    assert page.signals == {
        "theme": "light",
        "cart": {"theme": "plain paper", "items": ["Tea"], "total": 450},
    }
    assert page.one("span", data_text="$theme").text == "light"
    assert page.one("span", data_text="$cart.total").text == "450"


async def test_one_live_element_watches_both_states(dashboard: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(dashboard) as client:
        page = read_page(await client.get("/dashboard"))
    (opener,) = [e["data-init"] for e in page.elements if "data-init" in e.attributes]
    assert "/faststate/sse?states=UserPreferences,ShoppingCart" in opener.replace("%2C", ",")


@pytest.fixture
def profile_site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """A profile for those who are logged in, with a login page."""
    registry.register(UserProfile, StateConfig(scope=StateScope.USER))
    app, rt = new_app(before=auth_beforeware())

    @rt("/profile")
    def show(profile: UserProfile, auth) -> Any:  # type: ignore[no-untyped-def]
        return Main(H2(profile.name), P(profile.email, id="email"), P(f"Logged in as {auth}", id="who"))

    @rt("/login", methods=["POST"])
    async def log_in(req, user: str) -> Any:  # type: ignore[no-untyped-def]
        context = req.scope["faststate"]
        await context.login(user)
        async with context.transaction(UserProfile) as profile:
            profile.name, profile.email = user.title(), f"{user}@example.org"
        return RedirectResponse("/profile", status_code=303)

    return wrap(app, login_url="/login")


ASKS_FOR_A_PAGE = {"accept": "text/html"}


async def test_an_anonymous_visitor_is_sent_to_the_login_page(profile_site: FastStateMiddleware) -> None:
    async with FastStateClient(profile_site) as client:
        response = await client.get("/profile", headers=ASKS_FOR_A_PAGE)
    assert response.status == 303
    location = urlsplit(response.headers["location"])
    assert (location.netloc, location.path) == ("", "/login")
    assert parse_qs(location.query) == {"next": ["/profile"]}


async def test_who_is_logged_in_sees_the_own_profile(profile_site: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(profile_site) as client:
        await client.post("/login", data={"user": "alice"})
        page = read_page(await client.get("/profile", headers=ASKS_FOR_A_PAGE))
    assert page.one("h2").text == "Alice"
    assert page.one("p", id="email").text == "alice@example.org"
    assert page.one("p", id="who").text == "Logged in as alice"


@pytest.mark.parametrize("headers", [{}, {"auth": "alice"}, {"cookie": "auth=alice; user_id=alice"}])
async def test_nothing_in_a_request_logs_anybody_in(
    profile_site: FastStateMiddleware, headers: dict[str, str], browsers: Any
) -> None:
    async with browsers(profile_site, 2) as (alice, stranger):
        await alice.post("/login", data={"user": "alice"})
        response = await stranger.get("/profile?auth=alice&user=alice", headers=ASKS_FOR_A_PAGE | headers)
    assert response.status == 303
    assert "alice@example.org" not in response.text


@pytest.fixture
def editor_site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """An editor whose documents are found by the path."""
    config = StateConfig(scope=StateScope.RECORD, record_key="document_id", public=True, namespace="doc")
    registry.register(DocumentEditor, config)
    app, rt = new_app()

    @rt("/edit/{document_id}")
    def edit(editor: DocumentEditor, document_id: int) -> Any:
        return Main(
            H2(f"Editing document {document_id}"),
            P(editor.content, id="content"),
            Button("Write", **{"data-on:click": editor.actions.update_content(f"text of {document_id}")}),
            Button("Save", **{"data-on:click": editor.actions.save_document()}),
            Live(editor),
        )

    return wrap(app)


async def test_each_document_has_its_own_content(editor_site: FastStateMiddleware, read_page: Any, press: Any) -> None:
    async with FastStateClient(editor_site) as client:
        first = read_page(await client.get("/edit/1"))
        await press(client, first.button("Write")["data-on:click"])
        contents = [read_page(await client.get(f"/edit/{n}")).one("p", id="content").text for n in (1, 2)]
    assert contents == ["text of 1", ""]


async def test_the_id_in_the_path_wins_over_the_query(
    editor_site: FastStateMiddleware, read_page: Any, press: Any
) -> None:
    async with FastStateClient(editor_site) as client:
        page = read_page(await client.get("/edit/2"))
        await press(client, page.button("Write")["data-on:click"])
        page = read_page(await client.get("/edit/1?document_id=2&record_id=2&id=2"))
        assert page.one("p", id="content").text == ""
        await press(client, page.button("Write")["data-on:click"])
        contents = [read_page(await client.get(f"/edit/{n}")).one("p", id="content").text for n in (1, 2)]
    assert contents == ["text of 1", "text of 2"]


async def test_a_time_of_saving_travels_as_iso_text(
    editor_site: FastStateMiddleware, read_page: Any, press: Any
) -> None:
    async with FastStateClient(editor_site) as client:
        page = read_page(await client.get("/edit/1"))
        assert page.signals == {"doc": {"1": {"content": "", "last_saved": "", "is_dirty": False}}}
        await press(client, page.button("Write")["data-on:click"])
        answer = await press(client, page.button("Save")["data-on:click"])
        page = read_page(await client.get("/edit/1"))
    saved = {"last_saved": "2026-03-04T05:06:07Z", "is_dirty": False}
    assert answer.signals == {"doc": {"1": saved}}
    assert page.signals == {"doc": {"1": {"content": "text of 1"} | saved}}


@pytest.fixture
def mixed_site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """Routes that mix states with everything else FastHTML gives."""
    registry.register(UserPreferences)
    registry.register(ShoppingCart, StateConfig(namespace="cart"))
    app, rt = new_app(before=auth_beforeware())

    @rt("/profile/{user_id}")
    def show_profile(req, sess, auth, user_id: int) -> Any:  # type: ignore[no-untyped-def]
        return JSONResponse({"user_id": user_id, "session": dict(sess), "auth": auth, "path": req.url.path})

    @rt("/remember", methods=["POST"])
    async def remember(req, sess, user: str) -> Any:  # type: ignore[no-untyped-def]
        sess["visits"] = 3
        await req.scope["faststate"].login(user)
        return "ok"

    @rt("/mixed/{page}")
    def mixed(cart: ShoppingCart, page: int, req, sort: str, prefs: UserPreferences, sess, auth) -> Any:  # type: ignore[no-untyped-def]
        return JSONResponse(
            [
                page,
                sort,
                req.url.path,
                dict(sess),
                auth,
                cart.signals(),
                prefs.signals(),
                type(prefs).__name__,
            ]
        )

    @rt("/sync")
    def in_thread(prefs: UserPreferences) -> Any:
        return P(f"Theme {prefs.theme}", id="theme")

    @rt("/async")
    async def on_loop(prefs: UserPreferences) -> Any:
        return P(f"Theme {prefs.theme}", id="theme")

    return wrap(app)


async def test_path_session_and_identity_come_from_where_they_belong(mixed_site: FastStateMiddleware) -> None:
    async with FastStateClient(mixed_site) as client:
        anonymous = (await client.get("/profile/7?auth=root&sess=x&visits=9", headers={"auth": "root"})).json()
        await client.post("/remember", data={"user": "alice"})
        known = (await client.get("/profile/7?auth=root&sess=x&visits=9", headers={"auth": "root"})).json()
        assert (await client.get("/profile/seven")).status == 404
    assert anonymous == {"user_id": 7, "session": {}, "auth": None, "path": "/profile/7"}
    assert known == {"user_id": 7, "session": {"visits": 3}, "auth": "alice", "path": "/profile/7"}


async def test_states_stand_next_to_other_parameters_in_any_order(mixed_site: FastStateMiddleware) -> None:
    async with FastStateClient(mixed_site) as client:
        got = (await client.get("/mixed/3?sort=price&theme=forged&total=9")).json()
    cart = {"theme": "plain paper", "items": [], "total": 0}
    assert got == [3, "price", "/mixed/3", {}, None, {"cart": cart}, {"theme": "light"}, "UserPreferences"]


async def test_a_sync_and_an_async_route_give_the_same_page(mixed_site: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(mixed_site) as client:
        await client.call(UserPreferences.update_theme, "dark")
        pages = [read_page(await client.get(path)).one("p", id="theme").text for path in ("/sync", "/async")]
    assert pages == ["Theme dark", "Theme dark"]


async def test_a_state_that_is_passed_by_hand_is_not_replaced(new_app: Any) -> None:
    _, rt = new_app()

    def greet(prefs: UserPreferences) -> Any:
        return f"Theme {prefs.theme}"

    rt("/")(greet)
    assert greet(prefs=UserPreferences(theme="own")) == "Theme own"
