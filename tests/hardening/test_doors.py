"""The same rights at every door: a page that reads, an event, a stream, and a transaction in a route."""

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import (
    ConfigurationError,
    Identity,
    ReactiveState,
    RequestContext,
    StateConfig,
    StateScope,
    event,
    requires_auth,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import wrapped

pytestmark = pytest.mark.anyio
R = StateScope.RECORD


class Paper(ReactiveState):
    """What is guarded."""

    owner_id: str = "ada"
    reads: int = 0

    @event
    def write(self) -> None:
        self.reads += 1


class Strict(Paper):
    """Has guards on single events."""

    user_id: str = "ada"

    @event(permissions="edit")
    def edit(self) -> None:
        self.reads += 1

    @event(roles=["chief", "boss"])
    def rule(self) -> None:
        self.reads += 1

    @event(owner_only=True)
    def own(self) -> None:
        self.reads += 1

    @event
    @requires_auth(permissions="edit", roles="boss")
    def both(self) -> None:
        self.reads += 1

    @event(requires_auth=True)
    def member(self) -> None:
        self.reads += 1


async def read(request: Request) -> PlainTextResponse:
    state = await request.app.state.cls.aget(request)
    return PlainTextResponse(str(state.reads))


async def change(request: Request) -> PlainTextResponse:
    async with request.scope["faststate"].transaction(request.app.state.cls) as state:
        state.reads += 1
    return PlainTextResponse("done")


def site(cls: type[ReactiveState], config: StateConfig, **settings: Any) -> Any:
    inner = Starlette(routes=[Route("/read", read), Route("/change", change, methods=["POST"])])
    inner.state.cls = cls
    return wrapped((cls, config), app=inner, **settings)


PEOPLE: dict[str, Identity | None] = {
    "nobody": None,
    "eve": Identity("eve"),
    "reader": Identity("reader", {"read"}),
    "editor": Identity("editor", {"edit", "more"}),
    "boss": Identity("boss", {"read"}, {"boss"}),
    "ada": Identity("ada"),
}
WHO: list[str] = ["nobody"]


def who(connection: HTTPConnection) -> Identity | None:
    return PEOPLE[connection.headers.get("x-who", "nobody")]


async def through_page(client: FastStateClient, name: str, headers: dict[str, str]) -> int:
    return (await client.request("GET", "/read?record_id=1", headers=headers)).status


async def through_event(client: FastStateClient, name: str, headers: dict[str, str]) -> int:
    ids = {"record_id": "1"}
    return (await client.call(f"{name}/write", headers=headers, datastar=False, ids=ids)).status


async def through_stream(client: FastStateClient, name: str, headers: dict[str, str]) -> int:
    async with client.stream(name, headers=headers, datastar=False) as stream:
        return stream.status


async def through_transaction(client: FastStateClient, name: str, headers: dict[str, str]) -> int:
    return (await client.request("POST", "/change?record_id=1", headers=headers)).status


DOORS = {
    "page": through_page,
    "event": through_event,
    "stream": through_stream,
    "transaction": through_transaction,
}
G = StateScope.GLOBAL


async def allow_ada(identity: Identity | None, key: Any, action: str) -> bool:
    await asyncio.sleep(0)
    return identity is not None and identity.user_id == "ada"


TABLE: dict[str, tuple[StateConfig, dict[str, int]]] = {
    "open": (StateConfig(scope=G), dict.fromkeys(PEOPLE, 200)),
    "requires_auth": (StateConfig(scope=G, requires_auth=True), {**dict.fromkeys(PEOPLE, 200), "nobody": 401}),
    "permission": (
        StateConfig(scope=G, permissions=("read", "edit")),
        {"nobody": 401, "eve": 403, "reader": 200, "editor": 200, "boss": 200, "ada": 403},
    ),
    "role": (
        StateConfig(scope=G, roles=("boss",)),
        {"nobody": 401, "eve": 403, "reader": 403, "editor": 403, "boss": 200, "ada": 403},
    ),
    "permission and role": (
        StateConfig(scope=G, permissions=("edit",), roles=("boss",)),
        {"nobody": 401, "eve": 403, "reader": 403, "editor": 403, "boss": 403, "ada": 403},
    ),
    "owner": (
        StateConfig(scope=G, owner_field="owner_id"),
        {"nobody": 401, "eve": 403, "reader": 403, "editor": 403, "boss": 403, "ada": 200},
    ),
    "sync authorize": (
        StateConfig(scope=G, authorize=lambda identity, key, action: identity == PEOPLE["ada"]),
        {"nobody": 401, "eve": 403, "reader": 403, "editor": 403, "boss": 403, "ada": 200},
    ),
    "async authorize": (
        StateConfig(scope=G, authorize=allow_ada),
        {"nobody": 401, "eve": 403, "reader": 403, "editor": 403, "boss": 403, "ada": 200},
    ),
    "user": (StateConfig(scope=StateScope.USER), {**dict.fromkeys(PEOPLE, 200), "nobody": 401}),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("rule", TABLE)
async def test_every_door_asks_for_the_same_rights(rule: str, door: str) -> None:
    """The door whose check was forgotten is the one that is used."""
    config, expected = TABLE[rule]
    app = site(Paper, config, authenticate=who)
    async with FastStateClient(app) as client:
        for person, status in expected.items():
            assert await DOORS[door](client, "Paper", {"x-who": person}) == status, person
        written = {"event", "transaction"} & {door}
        if written and 200 not in expected.values():
            assert (await app.faststate.stats())["stored_states"] == 0


@pytest.mark.parametrize(
    ("door", "action"), [("page", "read"), ("event", "write"), ("stream", "watch"), ("transaction", "write")]
)
async def test_authorize_hears_who_asks_for_what(door: str, action: str) -> None:
    heard: list[Any] = []

    def authorize(identity: Identity | None, key: Any, asked: str) -> bool:
        heard.append((identity and identity.user_id, str(key), asked))
        return True

    app = site(Paper, StateConfig(scope=G, authorize=authorize), authenticate=who)
    async with FastStateClient(app) as client:
        assert await DOORS[door](client, "Paper", {"x-who": "eve"}) == 200
    assert set(heard) == {("eve", "global:Paper", action)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("write", {"nobody": 200, "eve": 200}),
        ("member", {"nobody": 401, "eve": 200}),
        ("edit", {"nobody": 401, "eve": 403, "reader": 403, "editor": 200}),
        ("rule", {"nobody": 401, "editor": 403, "boss": 200}),
        ("own", {"nobody": 401, "boss": 403, "ada": 200}),
        ("both", {"nobody": 401, "editor": 403, "boss": 403}),
    ],
)
async def test_an_event_asks_for_its_own_rights(name: str, expected: dict[str, int]) -> None:
    app = site(Strict, StateConfig(scope=G), authenticate=who)
    async with FastStateClient(app) as client:
        for person, status in expected.items():
            answer = await client.call(f"Strict/{name}", headers={"x-who": person}, datastar=False)
            assert answer.status == status, person


async def test_an_event_asks_for_the_states_rights_as_well() -> None:
    app = site(Strict, StateConfig(scope=G, roles=("boss",)), authenticate=who)
    async with FastStateClient(app) as client:
        for person, status in {"editor": 403, "boss": 403}.items():
            answer = await client.call("Strict/edit", headers={"x-who": person}, datastar=False)
            assert answer.status == status


async def test_the_owner_is_read_from_the_stored_version() -> None:
    """Who counts through the ids of orders would read and cancel those of others."""
    app = site(Paper, StateConfig(scope=R, owner_field="owner_id", namespace=True), authenticate=who)
    async with FastStateClient(app) as client:
        for number, owner in enumerate(["eve", "ada"] * 25):
            async with app.faststate.transaction(Paper, record_id=number) as paper:
                paper.owner_id = owner
        for number, owner in enumerate(["eve", "ada"] * 25):
            for person in ("eve", "ada"):
                status = 200 if person == owner else 403
                headers, ids = {"x-who": person}, {"record_id": str(number)}
                answer = await client.call(
                    "Paper/write", {"owner_id": person}, headers=headers, ids=ids, datastar=False
                )
                assert answer.status == status
                async with client.stream(f"Paper:{number}", headers=headers, datastar=False) as stream:
                    assert stream.status == status
                page = await client.request("GET", f"/read?record_id={number}", headers=headers)
                assert (page.status, page.text if status == 200 else "") == (status, "1" if status == 200 else "")


async def test_nobody_owns_what_has_no_owner() -> None:
    app = site(Paper, StateConfig(scope=G, owner_field="owner_id"), authenticate=who)
    async with FastStateClient(app) as client:
        async with app.faststate.transaction(Paper) as paper:
            paper.owner_id = ""
        for door in DOORS.values():
            assert await door(client, "Paper", {"x-who": "ada"}) == 403


# -- ways to authenticate ----------------------------------------------------------------------------------------------


class Backend(AuthenticationBackend):
    """A backend of Starlette's."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name = conn.headers.get("x-who")
        return None if name is None else (AuthCredentials(["authenticated", "read"]), SimpleUser(name))


async def id_only(connection: HTTPConnection) -> str | None:
    return connection.headers.get("x-who")


@pytest.mark.parametrize("authenticate", [id_only, Backend(), lambda c: 7 if c.headers.get("x-who") else None])
async def test_every_kind_of_authenticator_is_understood(authenticate: Any) -> None:
    app = site(Paper, StateConfig(scope=StateScope.USER), authenticate=authenticate)
    async with FastStateClient(app) as client:
        assert (await client.call("Paper/write", datastar=False)).status == 401
        assert (await client.call("Paper/write", headers={"x-who": "ada"}, datastar=False)).status == 200


async def test_a_backends_scopes_are_permissions() -> None:
    app = site(Paper, StateConfig(scope=G, permissions=("read",)), authenticate=Backend())
    async with FastStateClient(app) as client:
        assert (await client.call("Paper/write", headers={"x-who": "ada"}, datastar=False)).status == 200


async def test_an_outer_authentication_middleware_is_believed() -> None:
    inner = site(Paper, StateConfig(scope=G, permissions=("read",)))
    outer = Starlette(middleware=[Middleware(AuthenticationMiddleware, backend=Backend())])
    outer.mount("/", inner)
    async with FastStateClient(outer) as client:
        assert (await client.call("Paper/write", headers={"x-who": "ada"}, datastar=False)).status == 200
        assert (await client.call("Paper/write", datastar=False)).status == 401


async def test_an_authenticator_that_returns_nonsense_lets_nobody_in() -> None:
    app = site(Paper, StateConfig(scope=G, requires_auth=True), authenticate=lambda connection: object())
    async with FastStateClient(app) as client:
        answer = await client.call("Paper/write", datastar=False)
        assert answer.status == 500


async def test_an_authenticator_that_raises_lets_nobody_in_and_tells_nothing() -> None:
    def broken(connection: HTTPConnection) -> None:
        raise RuntimeError("canary-91")

    app = site(Paper, StateConfig(scope=G), authenticate=broken)
    async with FastStateClient(app) as client:
        for path in ("/faststate/sse?states=Paper", "/faststate/stats"):
            page = await client.request("GET", path)
            assert page.status == 500
            assert "canary-91" not in page.text
        answer = await client.call("Paper/write", datastar=False)
        assert (answer.status, "canary-91" in answer.text) == (500, False)


async def test_an_authenticator_that_cannot_tell_says_when_to_ask_again() -> None:
    def away(connection: HTTPConnection) -> None:
        raise HTTPException(503, "The directory is away", headers={"Retry-After": "7"})

    app = site(Paper, StateConfig(scope=G), authenticate=away)
    async with FastStateClient(app) as client:
        for path, where in [("sse?states=Paper", "stream"), ("stats", "stats"), ("metrics", "metrics")]:
            page = await client.request("GET", f"/faststate/{path}")
            assert (page.status, page.headers["retry-after"], page.json()["event"]) == (503, "7", where)


# -- login and logout --------------------------------------------------------------------------------------------------


class Door(ReactiveState):
    """Lets people in and out, and keeps something for the session."""

    cart: int = 0

    @event
    def add(self) -> None:
        self.cart += 1

    @event
    async def enter(self, context: RequestContext, name: str = "ada", permissions: list[str] | None = None) -> None:
        await context.login(name, permissions or (), roles="guest")

    @event
    async def leave(self, context: RequestContext) -> None:
        self.cart += 1
        await context.logout()

    @event
    async def late(self, context: RequestContext) -> Any:
        yield None
        await context.login("ada")


class Mine(ReactiveState):
    """Belongs to a user."""

    points: int = 0

    @event
    def score(self) -> None:
        self.points += 1


def doors(**settings: Any) -> Any:
    return wrapped(Door, (Mine, StateConfig(scope=StateScope.USER)), **settings)


async def test_login_changes_the_cookie_and_keeps_the_cart() -> None:
    async with FastStateClient(doors()) as client:
        await client.call("Door/add")
        old = client.cookies["faststate_session"]
        await client.call("Door/enter")
        assert client.cookies["faststate_session"] != old
        assert (await client.call("Door/add")).signals == {"cart": 2}
        assert (await client.call("Mine/score")).signals == {"points": 1}


async def test_the_cookie_from_before_the_login_is_worthless() -> None:
    """Who planted the cookie before the login would be logged in with it afterwards."""
    async with FastStateClient(doors()) as client:
        await client.call("Door/add")
        thief = client.another()
        thief.cookies.update(client.cookies)
        await client.call("Door/enter")
        for _ in range(5):
            assert (await thief.call("Mine/score", datastar=False)).status == 401
        assert (await thief.call("Door/add")).signals == {"cart": 1}
        assert (await client.call("Door/add")).signals == {"cart": 2}


async def test_logout_makes_every_copy_of_the_cookie_worthless_and_empties_the_session() -> None:
    app = doors()
    async with FastStateClient(app) as client:
        await client.call("Door/add")
        await client.call("Door/enter")
        copies = [client.another() for _ in range(5)]
        for copy in copies:
            copy.cookies.update(client.cookies)
        answer = await client.call("Door/leave")
        assert answer.error is None
        assert "faststate_session" not in client.cookies
        for copy in copies:
            assert (await copy.call("Mine/score", datastar=False)).status == 401
            assert (await copy.call("Door/add")).signals == {"cart": 1}


async def test_another_user_gets_another_session() -> None:
    async with FastStateClient(doors()) as client:
        await client.call("Door/enter", {"name": "ada"})
        await client.call("Door/add")
        await client.call("Door/enter", {"name": "bob"})
        assert (await client.call("Door/add")).signals == {"cart": 1}


async def test_login_after_the_response_has_begun_is_an_error() -> None:
    """The cookie could not be changed any more, and the old one, which others may know, would be logged in."""
    async with FastStateClient(doors()) as client:
        await client.call("Door/add")
        answer = await client.call("Door/late")
        assert answer.error is not None
        assert (await client.call("Mine/score", datastar=False)).status == 401


async def test_a_user_state_follows_the_user_through_sessions() -> None:
    async with FastStateClient(doors()) as client:
        other = client.another()
        for tab in (client, other):
            await tab.call("Door/enter", {"name": "ada"})
            await tab.call("Mine/score")
        assert (await client.call("Mine/score")).signals == {"points": 3}


# -- login_url ---------------------------------------------------------------------------------------------------------


async def test_a_page_that_needs_a_login_is_sent_there_and_back() -> None:
    app = site(Paper, StateConfig(scope=G, requires_auth=True), authenticate=who, login_url="/login")
    async with FastStateClient(app) as client:
        page = await client.get("/read?a=1&b=%20x")
        assert page.status == 303
        assert page.headers["location"] == "/login?next=/read%3Fa%3D1%26b%3D%2520x"
        assert (await client.request("GET", "/read")).status == 401
        assert (await client.get("/read", headers={"x-who": "eve"})).status == 200


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "//\\/evil.example", "/%5C%5Cevil.example"])
async def test_the_way_back_never_leaves_the_site(path: str) -> None:
    """Who sends a visitor to a prepared address would get him back after the login, on a site of his own."""

    async def any_path(scope: Any, receive: Any, send: Any) -> None:
        await scope["faststate"].get(Paper)

    app = wrapped((Paper, StateConfig(scope=G, requires_auth=True)), app=any_path, login_url="/login")
    async with FastStateClient(app) as client:
        page = await client.get(path)
        assert page.status == 303
        target = page.headers["location"].partition("next=")[2]
        assert target.startswith("/")
        assert not target.startswith(("//", "/\\", "/%5C", "/%2F"))


@pytest.mark.parametrize(
    ("referer", "expected"),
    [
        ("http://{host}/page?x=1", "/login?next=/page%3Fx%3D1"),
        ("http://evil.example/page", "/login'"),
        ("//evil.example", "/login'"),
        ("http://{host}//evil.example/x", "/login?next=/evil.example/x"),
        ("javascript:alert(1)", "/login'"),
        ("", "/login'"),
    ],
)
async def test_an_event_that_needs_a_login_sends_the_page_there(referer: str, expected: str) -> None:
    app = site(Paper, StateConfig(scope=G, requires_auth=True), login_url="/login")
    async with FastStateClient(app) as client:
        given = referer.format(host=client._parts.netloc)
        answer = await client.call("Paper/write", headers={"referer": given})
        assert answer.status == 200
        html = answer.elements[-1].html.replace("&quot;", "'").replace("\\u0026", "&").replace("\\u0027", "'")
        assert expected in html
        assert (await client.call("Paper/write", datastar=False)).status == 401


def test_contradicting_rights_are_refused_at_registration() -> None:
    for config in (
        StateConfig(public=True, requires_auth=True),
        StateConfig(public=True, permissions=("x",)),
        StateConfig(owner_field="nonsense"),
        StateConfig(permissions=("",)),
        StateConfig(authorize="x"),  # type: ignore[arg-type]  # that is the point
    ):
        with pytest.raises(ConfigurationError):
            wrapped((Paper, config))
