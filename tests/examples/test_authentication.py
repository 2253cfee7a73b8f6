"""Who may see and do what: identity from a session or an API key, pages, states, events, owners."""

import hmac
import inspect
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
from fasthtml.common import Div, P
from pydantic import Field
from starlette.responses import HTMLResponse, JSONResponse

from faststate_asgi import (
    AuthorizationError,
    FastStateMiddleware,
    Identity,
    Private,
    ReactiveState,
    StateConfig,
    StateKey,
    StateRegistry,
    StateScope,
    auth_beforeware,
    event,
    fasthtml_session_auth,
    inject,
    requires_auth,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio

API_KEYS = {"key-of-the-robot": "robot"}


def user_of_api_key(given: str) -> str | None:
    """Return whose key it is, in a time that does not depend on the key."""
    matches = [user for key, user in API_KEYS.items() if hmac.compare_digest(key.encode(), given.encode())]
    return matches[0] if matches else None


@pytest.fixture
def two_ways_in(new_app: Any, wrap: Any) -> FastStateMiddleware:
    """A site that knows people by FastHTML's session and programs by their key."""
    app, rt = new_app(before=auth_beforeware())
    of_session = fasthtml_session_auth(app, key="user_id")

    async def current_user(connection: Any) -> Any:
        found = of_session(connection)
        found = await found if inspect.isawaitable(found) else found
        return found or user_of_api_key(connection.headers.get("x-api-key", ""))

    @rt("/login", methods=["POST"])
    def log_in(sess, user: str) -> Any:  # type: ignore[no-untyped-def]
        sess["user_id"] = user
        return "ok"

    @rt("/")
    def home(auth) -> Any:  # type: ignore[no-untyped-def]
        return Div("Welcome to the front page", P(f"for {auth or 'nobody'}", id="who"))

    return wrap(app, authenticate=current_user)


async def test_a_session_identifies_its_user_and_the_page_is_the_page(
    two_ways_in: FastStateMiddleware, read_page: Any
) -> None:
    async with FastStateClient(two_ways_in) as client:
        await client.post("/login", data={"user": "alice"})
        page = read_page(await client.get("/"))
    assert "Welcome to the front page" in page.text
    assert page.one("p", id="who").text == "for alice"


@pytest.mark.parametrize(
    ("entry", "user"),
    [
        ("ann", "ann"),
        (7, "7"),
        ({"user_id": "ann"}, "ann"),
        ({"user_id": 7}, "7"),
        ("", "nobody"),
        (None, "nobody"),
        (True, "nobody"),
        ([1], "nobody"),
        ({"user_id": True}, "nobody"),
        ({}, "nobody"),
    ],
)
async def test_only_a_text_or_a_number_in_the_session_is_a_user(
    new_app: Any, wrap: Any, read_page: Any, entry: Any, user: str
) -> None:
    app, rt = new_app(before=auth_beforeware())

    @rt("/login", methods=["POST"])
    def log_in(sess) -> Any:  # type: ignore[no-untyped-def]
        sess["auth"] = entry
        return "ok"

    @rt("/")
    def home(auth) -> Any:  # type: ignore[no-untyped-def]
        return P(auth or "nobody", id="who")

    async with FastStateClient(wrap(app, authenticate=fasthtml_session_auth(app))) as client:
        await client.post("/login")
        assert read_page(await client.get("/")).one("p", id="who").text == user


async def test_an_api_key_identifies_its_owner(two_ways_in: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(two_ways_in) as client:
        page = read_page(await client.get("/", headers={"x-api-key": "key-of-the-robot"}))
    assert page.one("p", id="who").text == "for robot"


@pytest.mark.parametrize(
    "headers", [{}, {"x-api-key": "wrong"}, {"x-api-key": ""}, {"cookie": "session_=forged; user_id=alice"}]
)
async def test_without_session_and_key_the_caller_is_nobody(
    two_ways_in: FastStateMiddleware, read_page: Any, headers: dict[str, str]
) -> None:
    async with FastStateClient(two_ways_in) as client:
        page = read_page(await client.get("/?user_id=alice&auth=alice", headers=headers))
    assert page.one("p", id="who").text == "for nobody"


class AppSettings(ReactiveState):
    """Settings that only admins see and change."""

    maintenance_mode: bool = False

    @event
    def toggle_maintenance(self) -> None:
        """Turn maintenance on or off."""
        self.maintenance_mode = not self.maintenance_mode


@pytest.fixture
def admin_site(new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any) -> FastStateMiddleware:
    """A panel whose state asks for a role."""
    registry.register(AppSettings, StateConfig(scope=StateScope.GLOBAL, roles=["admin"]))
    app, rt = new_app()

    @rt("/admin")
    def admin_panel(settings: AppSettings) -> Any:
        return Div(f"Maintenance is {'on' if settings.maintenance_mode else 'off'}", id="admin")

    return wrap(app, authenticate=header_identity, login_url="/login")


async def test_the_panel_is_for_admins(admin_site: FastStateMiddleware, as_user: Any, read_page: Any) -> None:
    page_headers = {"accept": "text/html"}
    async with FastStateClient(admin_site) as client:
        anonymous = await client.get("/admin?auth=root", headers=page_headers)
        program = await client.get("/admin?auth=root", headers={"accept": "application/json"})
        bob = await client.get("/admin", headers=page_headers | as_user("bob", roles="editor"))
        root = read_page(await client.get("/admin", headers=page_headers | as_user("root", roles="admin")))
    assert (anonymous.status, anonymous.headers["location"].split("?")[0]) == (303, "/login")
    assert program.status == 401
    assert bob.status == 403
    assert "Maintenance is" not in anonymous.text + program.text + bob.text
    assert root.one("div", id="admin").text == "Maintenance is off"


async def test_the_switch_behind_the_panel_is_for_admins_too(
    admin_site: FastStateMiddleware, as_user: Any, read_page: Any
) -> None:
    async with FastStateClient(admin_site) as client:
        bob = await client.call(AppSettings.toggle_maintenance, headers=as_user("bob", roles="editor"))
        plain = await client.call(AppSettings.toggle_maintenance, headers=as_user("bob"), datastar=False)
        anonymous = await client.call(AppSettings.toggle_maintenance, datastar=False)
        before = read_page(await client.get("/admin", headers=as_user("root", roles="admin"))).text
        root = await client.call(AppSettings.toggle_maintenance, headers=as_user("root", roles="admin"))
        after = read_page(await client.get("/admin", headers=as_user("root", roles="admin"))).text
    assert (bob.status, bob.error["status"], bob.signals.get("maintenance_mode")) == (200, 403, None)
    assert (plain.status, anonymous.status) == (403, 401)
    assert ("Maintenance is off" in before, "Maintenance is on" in after) == (True, True)
    assert root.signals == {"maintenance_mode": True}


class UserDashboard(ReactiveState):
    """The widgets of one user."""

    widgets: list[dict[str, Any]] = Field(default_factory=list)
    layout: str = "grid"

    @event
    def add_widget(self, widget_type: str, config: dict[str, Any]) -> None:
        """Add a widget with an id and a time of its own."""
        created_at = datetime.now(UTC).isoformat()
        self.widgets.append({"id": str(uuid4()), "type": widget_type, "config": config, "created_at": created_at})


@pytest.fixture
def dashboard_site(new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any) -> FastStateMiddleware:
    """A dashboard per user."""
    registry.register(UserDashboard, StateConfig(scope=StateScope.USER))
    app, rt = new_app()

    @rt("/dashboard")
    def dashboard(dash: UserDashboard) -> Any:
        return JSONResponse(dash.signals())

    return wrap(app, authenticate=header_identity, login_url="/login")


async def test_a_widget_appears_on_the_own_dashboard_only(dashboard_site: FastStateMiddleware, as_user: Any) -> None:
    async with FastStateClient(dashboard_site) as client:
        await client.call(UserDashboard.add_widget, "clock", {"zone": "UTC"}, headers=as_user("alice"))
        alice = (await client.get("/dashboard", headers=as_user("alice"))).json()
        bob = (await client.get("/dashboard", headers=as_user("bob"))).json()
    (widget,) = alice["widgets"]
    assert (widget["type"], widget["config"]) == ("clock", {"zone": "UTC"})
    assert len(widget["id"]) == 36
    assert datetime.fromisoformat(widget["created_at"]).tzinfo is not None
    assert bob["widgets"] == []


async def test_an_anonymous_visitor_of_the_dashboard_is_sent_to_login(
    dashboard_site: FastStateMiddleware,
) -> None:
    async with FastStateClient(dashboard_site) as client:
        page = await client.get("/dashboard", headers={"accept": "text/html"})
        answer = await client.call(UserDashboard.add_widget, "clock", {})
    assert (page.status, page.headers["location"].split("?")[0]) == (303, "/login")
    assert "widgets" not in answer.signals
    assert "/login" in answer.text


async def test_a_widget_configuration_that_is_nested_too_deep_is_refused(
    dashboard_site: FastStateMiddleware, as_user: Any
) -> None:
    config: dict[str, Any] = {}
    for _ in range(40):
        config = {"inner": config}
    async with FastStateClient(dashboard_site) as client:
        payload = {"widget_type": "bomb", "config": config}
        answer = await client.call("UserDashboard/add_widget", payload, headers=as_user("alice"), datastar=False)
        assert (await client.get("/dashboard", headers=as_user("alice"))).json()["widgets"] == []
    assert answer.status == 400


class SensitiveDataState(ReactiveState):
    """What not everybody may read."""

    summary: str = "the secret sauce"


def access_denied(req: Any, exc: Exception) -> HTMLResponse:
    """Show who is refused a page in the site's own words."""
    return HTMLResponse(str(Div("Access Denied", cls="error")), status_code=403)


@pytest.fixture
def sensitive_site(new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any) -> FastStateMiddleware:
    """Guarded routes, with and without a guarded state, as ``def`` and ``async def``."""
    registry.register(SensitiveDataState, StateConfig(permissions=["read_sensitive_data"]))
    app, rt = new_app(exception_handlers={AuthorizationError: access_denied})

    @rt("/state/sync")
    def state_sync(data: SensitiveDataState) -> Any:
        return P(data.summary, id="summary")

    @rt("/state/async")
    async def state_async(data: SensitiveDataState) -> Any:
        return P(data.summary, id="summary")

    @rt("/route/sync")
    @requires_auth(permissions=["read_sensitive_data"])
    def route_sync() -> Any:
        return P("the secret sauce", id="summary")

    @rt("/route/async")
    @requires_auth(permissions=["read_sensitive_data"])
    async def route_async() -> Any:
        return P("the secret sauce", id="summary")

    return wrap(app, authenticate=header_identity)


@pytest.mark.parametrize("path", ["/state/sync", "/state/async", "/route/sync", "/route/async"])
async def test_sensitive_data_needs_its_permission(
    sensitive_site: FastStateMiddleware, path: str, as_user: Any, read_page: Any
) -> None:
    async with FastStateClient(sensitive_site) as client:
        anonymous = await client.get(path)
        bob = await client.get(path, headers=as_user("bob", permissions="read_news"))
        alice = read_page(await client.get(path, headers=as_user("alice", permissions="read_sensitive_data")))
    assert anonymous.status == 401
    assert (bob.status, bob.text) == (403, '<div class="error">Access Denied</div>')
    assert "secret sauce" not in anonymous.text
    assert alice.one("p", id="summary").text == "the secret sauce"


class UserProfile(ReactiveState):
    """Who a user is."""

    name: str = "unnamed"


@pytest.fixture
def optional_site(new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any) -> FastStateMiddleware:
    """One route that needs a user and one that only likes to know."""
    registry.register(UserProfile, StateConfig(scope=StateScope.USER))
    app, rt = new_app(before=auth_beforeware())

    @rt("/required")
    def required(profile: UserProfile, auth) -> Any:  # type: ignore[no-untyped-def]
        return P(f"{auth} is {profile.name}", id="who")

    @rt("/optional")
    @inject
    async def optional(req, profile: UserProfile | None) -> Any:  # type: ignore[no-untyped-def]
        return P(f"profile {profile.name}" if profile else "no profile", id="who")

    return wrap(app, authenticate=header_identity)


async def test_a_user_state_is_given_to_users_and_none_where_it_is_optional(
    optional_site: FastStateMiddleware, as_user: Any, read_page: Any
) -> None:
    async with FastStateClient(optional_site) as client:
        texts = [
            read_page(await client.get(path, headers=headers)).one("p", id="who").text
            for path, headers in (
                ("/required", as_user("alice")),
                ("/optional", as_user("alice")),
                ("/optional", {}),
            )
        ]
        refused = await client.get("/required?auth=alice")
    assert texts == ["alice is unnamed", "profile unnamed", "no profile"]
    assert refused.status == 401


class Ledger(ReactiveState):
    """Events with every kind of guard, once as ``def`` and once as ``async def``."""

    user_id: Private[str] = ""
    entries: list[str] = Field(default_factory=list)

    @event
    @requires_auth()
    def by_anyone(self) -> None:
        """For whoever is logged in."""
        self.entries.append("anyone")

    @event
    @requires_auth()
    async def by_anyone_async(self) -> None:
        """For whoever is logged in."""
        self.entries.append("anyone")

    @event
    @requires_auth(permissions=["ledger.write", "ledger.admin"])
    def by_permission(self) -> None:
        """For any one of two permissions."""
        self.entries.append("permission")

    @event
    @requires_auth(permissions=["ledger.write", "ledger.admin"])
    async def by_permission_async(self) -> None:
        """For any one of two permissions."""
        self.entries.append("permission")

    @event(roles=["clerk"])
    def by_role(self) -> None:
        """For a role."""
        self.entries.append("role")

    @event
    @requires_auth(roles=["clerk"])
    async def by_role_async(self) -> None:
        """For a role."""
        self.entries.append("role")

    @event
    @requires_auth(owner_only=True)
    def by_owner(self) -> None:
        """For the owner."""
        self.entries.append("owner")

    @event(owner_only=True)
    async def by_owner_async(self) -> None:
        """For the owner."""
        self.entries.append("owner")


RIGHT = {
    "by_anyone": {"name": "carol"},
    "by_permission": {"name": "carol", "permissions": "ledger.admin"},
    "by_role": {"name": "carol", "roles": "clerk"},
    "by_owner": {"name": "olga"},
}
WRONG = {
    "by_permission": {"name": "carol", "permissions": "ledger.read", "roles": "ledger.write"},
    "by_role": {"name": "carol", "roles": "boss", "permissions": "clerk"},
    "by_owner": {"name": "carol", "permissions": "ledger.admin", "roles": "clerk"},
}
KINDS = ["", "_async"]


@pytest.fixture
def ledger_site(new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any) -> FastStateMiddleware:
    """A ledger that everybody may look at."""
    registry.register(Ledger, StateConfig(scope=StateScope.RECORD, public=True))
    app, _ = new_app()
    return wrap(app, authenticate=header_identity)


async def entries_of(site: FastStateMiddleware) -> list[str]:
    """Return what is stored in the ledger of the tests."""
    async with site.faststate.transaction(Ledger, record_id="1") as ledger:
        return list(ledger.entries)


async def give_to_olga(site: FastStateMiddleware) -> None:
    """Make Olga the owner."""
    async with site.faststate.transaction(Ledger, record_id="1") as ledger:
        ledger.user_id = "olga"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RIGHT)
async def test_who_has_the_right_runs_the_event(
    ledger_site: FastStateMiddleware, name: str, kind: str, as_user: Any
) -> None:
    async with FastStateClient(ledger_site) as client:
        await give_to_olga(ledger_site)
        answer = await client.call(f"Ledger/{name}{kind}", {}, ids={"record_id": "1"}, headers=as_user(**RIGHT[name]))
        assert await entries_of(ledger_site) == [name.removeprefix("by_")]
    assert answer.error is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RIGHT)
async def test_an_anonymous_caller_runs_no_guarded_event(
    ledger_site: FastStateMiddleware, name: str, kind: str
) -> None:
    async with FastStateClient(ledger_site) as client:
        await give_to_olga(ledger_site)
        answer = await client.call(f"Ledger/{name}{kind}", {"auth": "olga"}, ids={"record_id": "1"})
        plain = await client.call(f"Ledger/{name}{kind}", {"auth": "olga"}, ids={"record_id": "1"}, datastar=False)
        assert await entries_of(ledger_site) == []
    assert answer.error["status"] == plain.status == 401


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRONG)
async def test_who_lacks_the_right_is_refused_without_being_told_which(
    ledger_site: FastStateMiddleware, name: str, kind: str, as_user: Any
) -> None:
    async with FastStateClient(ledger_site) as client:
        await give_to_olga(ledger_site)
        headers = as_user(**WRONG[name])
        answer = await client.call(f"Ledger/{name}{kind}", {}, ids={"record_id": "1"}, headers=headers)
        plain = await client.call(f"Ledger/{name}{kind}", {}, ids={"record_id": "1"}, headers=headers, datastar=False)
        assert await entries_of(ledger_site) == []
    assert answer.error["status"] == plain.status == 403
    assert not any(secret in answer.text + plain.text for secret in ("ledger.write", "clerk", "olga"))


async def test_a_record_without_an_owner_belongs_to_nobody(ledger_site: FastStateMiddleware, as_user: Any) -> None:
    async with FastStateClient(ledger_site) as client:
        answer = await client.call("Ledger/by_owner", {}, ids={"record_id": "1"}, headers=as_user("carol"))
        assert await entries_of(ledger_site) == []
    assert answer.error["status"] == 403


class Diary(ReactiveState):
    """A record that only its owner may read and write."""

    owner: Private[str] = ""
    text: str = ""

    @event
    def write(self, text: str) -> None:
        """Replace the text."""
        self.text = text


async def test_an_owner_field_closes_every_door_of_a_record_to_others(
    new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any, as_user: Any
) -> None:
    registry.register(Diary, StateConfig(scope=StateScope.RECORD, owner_field="owner"))
    app, rt = new_app()

    @rt("/diary/{record_id}")
    def show(diary: Diary) -> Any:
        return JSONResponse(diary.signals())

    site = wrap(app, authenticate=header_identity)
    async with FastStateClient(site) as client:
        async with site.faststate.transaction(Diary, record_id="1") as diary:
            diary.owner = "olga"
        written = await client.call("Diary/write", {"text": "dear"}, ids={"record_id": "1"}, headers=as_user("olga"))
        for headers, status in ((as_user("carol"), 403), ({}, 401)):
            page = await client.get("/diary/1", headers=headers)
            stream = await client.get("/faststate/sse?states=Diary:1", headers=headers)
            answer = await client.call("Diary/write", {"text": "x"}, ids={"record_id": "1"}, headers=headers)
            assert page.status == stream.status == answer.error["status"] == status
            assert "dear" not in page.text + stream.text + answer.text
        assert (await client.get("/diary/1", headers=as_user("olga"))).json() == {"text": "dear"}
    assert written.signals == {"text": "dear"}


class Page(ReactiveState):
    """A record with one event of each kind."""

    edits: int = 0

    @event
    def edit_in_thread(self) -> None:
        """Count."""
        self.edits += 1

    @event(inline=True)
    def edit_inline(self) -> None:
        """Count."""
        self.edits += 1

    @event
    async def edit_async(self) -> None:
        """Count."""
        self.edits += 1

    @event
    async def edit_in_steps(self) -> Any:
        """Count."""
        self.edits += 1
        yield


@pytest.mark.parametrize("name", ["edit_in_thread", "edit_inline", "edit_async", "edit_in_steps"])
async def test_a_check_of_ones_own_may_wait_and_is_asked_for_every_record(
    new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any, as_user: Any, name: str
) -> None:
    asked = []

    async def may(identity: Identity | None, key: StateKey, action: str) -> bool:
        with anyio.fail_after(5):
            await anyio.lowlevel.checkpoint()
        who = identity.user_id if identity else "nobody"
        asked.append((who, key.record_id, action))
        return who == f"owner-of-{key.record_id}"

    registry.register(Page, StateConfig(scope=StateScope.RECORD, authorize=may))
    app, _ = new_app()
    async with FastStateClient(wrap(app, authenticate=header_identity)) as client:
        own = await client.call(f"Page/{name}", ids={"record_id": "1"}, headers=as_user("owner-of-1"))
        others = await client.call(f"Page/{name}", ids={"record_id": "2"}, headers=as_user("owner-of-1"))
        nobody = await client.call(f"Page/{name}", ids={"record_id": "1"})
    assert (own.error, own.signals) == (None, {"edits": 1})
    assert (others.error["status"], nobody.error["status"]) == (403, 401)
    assert {("owner-of-1", "1", "write"), ("owner-of-1", "2", "write"), ("nobody", "1", "write")} <= set(asked)


async def test_login_stores_permissions_and_roles_of_an_identity(
    new_app: Any, wrap: Any, registry: StateRegistry
) -> None:
    registry.register(Ledger, StateConfig(scope=StateScope.SESSION))
    app, rt = new_app()

    @rt("/login", methods=["POST"])
    async def log_in(req) -> Any:  # type: ignore[no-untyped-def]
        await req.scope["faststate"].login("carol", permissions=["ledger.write"], roles=["clerk"])
        return "ok"

    @rt("/me")
    async def me(req) -> Any:  # type: ignore[no-untyped-def]
        await req.scope["faststate"].resolve()
        identity = req.scope["faststate"].identity
        return JSONResponse(identity and [identity.user_id, sorted(identity.permissions), sorted(identity.roles)])

    async with FastStateClient(wrap(app)) as client:
        assert (await client.get("/me")).json() is None
        assert (await client.call(Ledger.by_role)).error["status"] == 401
        await client.post("/login")
        assert (await client.get("/me")).json() == ["carol", ["ledger.write"], ["clerk"]]
        assert (await client.call(Ledger.by_role)).signals == {"entries": ["role"]}
        assert (await client.call(Ledger.by_permission)).signals == {"entries": ["role", "permission"]}


def test_an_identity_compares_by_value() -> None:
    assert Identity("alice", permissions=("a",)) == Identity("alice", permissions=("a",))
    assert Identity("alice") != Identity("bob")
