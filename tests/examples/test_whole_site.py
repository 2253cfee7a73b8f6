"""A site with every kind of page: a counter, a profile, an admin panel and a product for each record."""

from typing import Any

import pytest
from fasthtml.common import H1, Button, Div, Form, Input, Main, P, RedirectResponse, Span

from faststate_asgi import (
    Bound,
    FastStateMiddleware,
    Live,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    datastar_script,
    event,
    requires_auth,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class MyState(ReactiveState):
    """A number to count and a text that the browser may set."""

    number: int = 0
    text: Bound[str] = "Hello"

    @event
    def increment(self, amount: int) -> None:
        """Count up."""
        self.number += amount

    @event
    def decrement(self, amount: int) -> None:
        """Count down."""
        self.number -= amount

    @event
    def reset(self) -> None:
        """Start again."""
        self.number = 0


class UserProfileState(ReactiveState):
    """Who a user is."""

    name: str = ""
    email: str = ""

    @event
    @requires_auth()
    def update_profile(self, name: str, email: str) -> None:
        """Change both."""
        self.name, self.email = name, email


class GlobalSettingsState(ReactiveState):
    """What admins set for everybody."""

    theme: str = "light"
    maintenance_mode: bool = False

    @event
    @requires_auth(permissions=["admin"])
    def toggle_maintenance(self) -> None:
        """Turn maintenance on or off."""
        self.maintenance_mode = not self.maintenance_mode


class ProductState(ReactiveState):
    """One product."""

    title: str = ""
    price_cents: int = 0
    description: str = ""

    @event(permissions=["admin"])
    def describe(self, title: str, price_cents: int, description: str) -> None:
        """Fill in the record."""
        self.title, self.price_cents, self.description = title, price_cents, description


PERMISSIONS = {"root": ["admin"]}


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """The four pages and a login."""
    registry.register(MyState, StateConfig(scope=StateScope.SESSION))
    registry.register(UserProfileState, StateConfig(scope=StateScope.USER, requires_auth=True))
    admins_only = StateConfig(scope=StateScope.GLOBAL, requires_auth=True, permissions=["admin"])
    registry.register(GlobalSettingsState, admins_only)
    registry.register(ProductState, StateConfig(scope=StateScope.RECORD, public=True, auto_persist=True))
    app, rt = new_app(hdrs=(datastar_script(),))

    @rt("/")
    def index(my_state: MyState) -> Any:
        return Main(
            my_state,
            Input(id="text", data_bind="text", **{"data-on:change": MyState.setter("text")}),
            H1("Count: ", Span(my_state.number, data_text=MyState.signal.number)),
            Button("-", **{"data-on:click": MyState.decrement(1)}),
            Button("0", **{"data-on:click": MyState.reset()}),
            Button("+", **{"data-on:click": MyState.increment(1)}),
        )

    @rt("/profile")
    def profile(user_profile: UserProfileState) -> Any:
        return Form(
            Input(name="name", value=user_profile.name),
            Input(name="email", value=user_profile.email),
            Button("Update"),
            **{"data-on:submit": UserProfileState.update_profile.form()},
        )

    @rt("/admin")
    def admin_panel(settings: GlobalSettingsState) -> Any:
        return Div(
            P(f"Theme: {settings.theme}", id="theme"),
            P(f"Maintenance: {settings.maintenance_mode}", id="maintenance"),
            Button("Toggle", **{"data-on:click": GlobalSettingsState.toggle_maintenance()}),
            Live(settings),
        )

    @rt("/product/{record_id}")
    def product_detail(product: ProductState, record_id: int) -> Any:
        return Div(
            H1(product.title or f"Product {record_id}"),
            P(f"Price: {product.price_cents / 100:.2f}", id="price"),
            P(product.description, id="description"),
        )

    @rt("/login", methods=["POST"])
    async def log_in(req, user: str) -> Any:  # type: ignore[no-untyped-def]
        await req.scope["faststate"].login(user, permissions=PERMISSIONS.get(user, []))
        return RedirectResponse("/", status_code=303)

    return wrap(app, login_url="/login")


HTML = {"accept": "text/html"}


async def test_the_home_page_counts_both_ways(site: FastStateMiddleware, read_page: Any, press: Any) -> None:
    async with FastStateClient(site) as client:
        page = read_page(await client.get("/"))
        for label, number in (("-", -1), ("-", -2), ("+", -1), ("0", 0), ("+", 1)):
            assert (await press(client, page.button(label)["data-on:click"])).signals == {"number": number}
        page = read_page(await client.get("/"))
    assert page.one("h1").text == "Count: 1"
    assert page.signals == {"number": 1, "text": "Hello"}


async def test_a_bound_input_sends_its_signal_and_only_that(site: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(site) as client:
        field = read_page(await client.get("/")).one("input", id="text")
        answer = await client.call("MyState/set_text", {"text": "typed", "number": 99})
        page = read_page(await client.get("/"))
    assert field["data-bind"] == "text"
    assert field["data-on:change"].startswith(
        "@post('/faststate/events/MyState/set_text', {payload: {\"text\": $text}, "
    )
    assert answer.signals == {"text": "typed"}
    assert page.signals == {"number": 0, "text": "typed"}


async def test_a_field_that_is_not_bound_has_no_setter(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call("MyState/set_number", {"number": 99})).status == 404


async def test_the_profile_needs_a_login_and_takes_a_form(site: FastStateMiddleware, read_page: Any) -> None:
    event_path = "/faststate/events/UserProfileState/update_profile"
    values = {"name": "Alice", "email": "alice@example.org"}
    async with FastStateClient(site) as client:
        anonymous = await client.get("/profile", headers=HTML)
        refused = await client.post(event_path, data=values)
        await client.post("/login", data={"user": "alice"})
        form = read_page(await client.get("/profile", headers=HTML)).one("form")
        accepted = await client.post(event_path, data=values, headers={"Datastar-Request": "true"})
        page = read_page(await client.get("/profile", headers=HTML))
    assert (anonymous.status, anonymous.headers["location"].split("?")[0]) == (303, "/login")
    assert refused.status == 401
    assert form["data-on:submit"].startswith(f"@post('{event_path}', {{contentType: 'form', ")
    assert accepted.status == 200
    assert page.one("input", name="name")["value"] == "Alice"
    assert page.one("input", name="email")["value"] == "alice@example.org"


async def test_the_admin_panel_and_its_switch_need_the_permission(
    site: FastStateMiddleware, read_page: Any, press: Any, browsers: Any
) -> None:
    async with browsers(site, 3) as (admin, user, stranger):
        await admin.post("/login", data={"user": "root"})
        await user.post("/login", data={"user": "bob"})
        page = read_page(await admin.get("/admin", headers=HTML))
        toggle = page.button("Toggle")["data-on:click"]
        statuses = [
            (await user.get("/admin", headers=HTML)).status,
            (await stranger.get("/admin", headers=HTML)).status,
        ]
        refusals = [(await press(client, toggle, datastar=False)).status for client in (user, stranger)]
        before = read_page(await admin.get("/admin", headers=HTML)).one("p", id="maintenance").text
        answer = await press(admin, toggle)
        after = read_page(await admin.get("/admin", headers=HTML)).one("p", id="maintenance").text
    assert page.one("p", id="theme").text == "Theme: light"
    assert statuses == [403, 303]
    assert refusals == [403, 401]
    assert (before, after) == ("Maintenance: False", "Maintenance: True")
    assert answer.signals == {"maintenance_mode": True}


async def test_each_product_page_shows_its_own_record(site: FastStateMiddleware, read_page: Any, browsers: Any) -> None:
    tea = {"title": "Tea", "price_cents": 450, "description": "Green."}
    async with browsers(site, 2) as (admin, visitor):
        await admin.post("/login", data={"user": "root"})
        await admin.call("ProductState/describe", tea, ids={"record_id": "1"})
        refused = await visitor.call(
            "ProductState/describe", tea | {"price_cents": 1}, ids={"record_id": "1"}, datastar=False
        )
        first = read_page(await visitor.get("/product/1"))
        second = read_page(await visitor.get("/product/2?record_id=1"))
    assert refused.status == 401
    assert [first.one("p", id=name).text for name in ("price", "description")] == ["Price: 4.50", "Green."]
    assert (first.one("h1").text, second.one("h1").text) == ("Tea", "Product 2")
    assert second.one("p", id="price").text == "Price: 0.00"
