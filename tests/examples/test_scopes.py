"""Scopes: who shares a state, what its key is, and what is said when a part of the key is missing."""

from typing import Any

import pytest
from pydantic import Field
from starlette.responses import JSONResponse

from faststate_asgi import (
    AuthenticationError,
    BadRequestError,
    FastStateError,
    FastStateMiddleware,
    ReactiveState,
    StateConfig,
    StateKey,
    StateRegistry,
    StateScope,
    event,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class ShoppingSession(ReactiveState):
    """What one browser looked at."""

    viewed_products: list[int] = Field(default_factory=list)
    current_category: str = "all"
    search_query: str = ""

    @event
    def view(self, product_id: int) -> None:
        """Remember a product."""
        self.viewed_products.append(product_id)


class UserProfile(ReactiveState):
    """What belongs to a person."""

    name: str = ""
    email: str = ""

    @event
    def update_profile(self, name: str, email: str) -> None:
        """Change both."""
        self.name, self.email = name, email


class AppSettings(ReactiveState):
    """What belongs to everybody and is changed by few."""

    maintenance_mode: bool = False
    announcement: str = ""

    @event(permissions=["admin"])
    def toggle_maintenance(self) -> None:
        """Turn maintenance on or off."""
        self.maintenance_mode = not self.maintenance_mode


class Widget(ReactiveState):
    """One of several boxes in a page."""

    is_open: bool = False

    @event
    def toggle(self) -> None:
        """Open or close."""
        self.is_open = not self.is_open


class Product(ReactiveState):
    """One thing on the shelf."""

    title: str = ""

    @event
    def rename(self, title: str) -> None:
        """Change the title."""
        self.title = title


SCOPES = {
    ShoppingSession: StateConfig(),
    UserProfile: StateConfig(scope=StateScope.USER),
    AppSettings: StateConfig(scope=StateScope.GLOBAL),
    Widget: StateConfig(scope=StateScope.COMPONENT, namespace="widget"),
    Product: StateConfig(scope=StateScope.RECORD, public=True, namespace="product"),
}


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any) -> FastStateMiddleware:
    """One address per state that tells its key and signals, or the error that came instead."""
    app, rt = new_app()
    for state_class, config in SCOPES.items():
        registry.register(state_class, config)

    async def tell(req: Any, state_class: type[ReactiveState]) -> Any:
        context = req.scope["faststate"]
        try:
            state = await context.get(state_class)
        except FastStateError as exc:
            return JSONResponse(
                {
                    "error": type(exc).__name__,
                    "kinds": [c.__name__ for c in type(exc).__mro__],
                    "text": str(exc),
                }
            )
        again = await context.get(state_class)
        body = {
            "key": str(state.key),
            "session": context.session_id,
            "id": state.id,
            "is_same": state is again,
        }
        return JSONResponse(body | state.signals())

    for state_class in SCOPES:
        rt(f"/{state_class.__name__.lower()}")(show_of(tell, state_class))
        rt(f"/{state_class.__name__.lower()}/{{record_id}}")(show_of(tell, state_class))
    return wrap(app, authenticate=header_identity)


def show_of(tell: Any, state_class: type[ReactiveState]) -> Any:
    """Return the handler for one class."""

    async def show(req) -> Any:  # type: ignore[no-untyped-def]
        return await tell(req, state_class)

    return show


async def test_two_browsers_have_two_shopping_sessions(site: FastStateMiddleware, browsers: Any) -> None:
    async with browsers(site, 2) as (first, second):
        await first.call(ShoppingSession.view, 7)
        await first.call(ShoppingSession.view, 8)
        await second.call(ShoppingSession.view, 9)
        one = (await first.get("/shoppingsession")).json()
        two = (await second.get("/shoppingsession")).json()
    assert (one["viewed_products"], two["viewed_products"]) == ([7, 8], [9])
    assert one["session"] != two["session"]
    assert one["id"] != two["id"]


async def test_a_user_has_one_profile_in_all_sessions(site: FastStateMiddleware, browsers: Any, as_user: Any) -> None:
    async with browsers(site, 2) as (laptop, phone):
        await laptop.call(UserProfile.update_profile, "Alice", "alice@example.org", headers=as_user("alice"))
        on_phone = (await phone.get("/userprofile", headers=as_user("alice"))).json()
        of_bob = (await laptop.get("/userprofile", headers=as_user("bob"))).json()
    assert (on_phone["name"], on_phone["email"]) == ("Alice", "alice@example.org")
    assert (of_bob["name"], of_bob["email"]) == ("", "")
    assert (on_phone["key"], of_bob["key"]) == ("user:alice:UserProfile", "user:bob:UserProfile")


def test_a_user_state_needs_no_mention_of_authentication(registry: StateRegistry) -> None:
    registry.register(UserProfile, StateConfig(scope=StateScope.USER))
    assert registry.is_state_type(UserProfile)


async def test_a_user_state_is_refused_to_anonymous_callers(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        told = (await client.get("/userprofile")).json()
        answer = await client.call(UserProfile.update_profile, "Mallory", "m@example.org")
        plain = await client.call(UserProfile.update_profile, "Mallory", "m@example.org", datastar=False)
    assert told["error"] == AuthenticationError.__name__
    assert answer.status == 200
    assert answer.error["status"] == 401
    assert plain.status == 401
    assert plain.headers["content-type"] == "application/problem+json"


async def test_a_global_change_is_seen_by_all_and_made_by_admins_only(
    site: FastStateMiddleware, browsers: Any, as_user: Any
) -> None:
    async with browsers(site, 2) as (admin, visitor):
        refusals = [
            (await visitor.call(AppSettings.toggle_maintenance, headers=headers)).error["status"]
            for headers in ({}, as_user("bob"), as_user("bob", permissions="editor"))
        ]
        before = (await visitor.get("/appsettings")).json()["maintenance_mode"]
        answer = await admin.call(AppSettings.toggle_maintenance, headers=as_user("root", permissions="admin"))
        after = (await visitor.get("/appsettings")).json()["maintenance_mode"]
    assert refusals == [401, 403, 403]
    assert (before, after) == (False, True)
    assert answer.signals == {"maintenance_mode": True}


def test_there_are_five_scopes() -> None:
    assert {scope.name: scope.value for scope in StateScope} == {
        "GLOBAL": "global",
        "SESSION": "session",
        "USER": "user",
        "COMPONENT": "component",
        "RECORD": "record",
    }
    assert StateScope("session") is StateScope.SESSION


def test_a_state_is_per_session_without_expiry_and_not_persisted_by_default() -> None:
    config = StateConfig()
    assert (config.scope, config.ttl, config.auto_persist) == (StateScope.SESSION, None, False)
    assert not config.requires_auth
    assert not config.permissions
    assert not config.roles


async def test_each_scope_has_its_documented_key(site: FastStateMiddleware, as_user: Any) -> None:
    paths = ["/appsettings", "/shoppingsession", "/userprofile", "/widget?component_id=left", "/product/42"]
    async with FastStateClient(site) as client:
        told = [(await client.get(path, headers=as_user("alice"))).json() for path in paths]
    session = told[1]["session"]
    assert [one["key"] for one in told] == [
        "global:AppSettings",
        f"session:{session}:ShoppingSession",
        "user:alice:UserProfile",
        f"component:{session}:left:Widget",
        "record:Product:42",
    ]


@pytest.mark.parametrize(
    ("path", "kind", "mentions"),
    [
        ("/userprofile", AuthenticationError, ""),
        ("/widget", BadRequestError, "component_id"),
        ("/product", BadRequestError, "record_id"),
    ],
)
async def test_a_missing_part_of_the_key_is_named(
    site: FastStateMiddleware, path: str, kind: type[Exception], mentions: str
) -> None:
    async with FastStateClient(site) as client:
        told = (await client.get(path)).json()
    assert kind.__name__ in told["kinds"]
    assert mentions in told["text"]


@pytest.mark.parametrize(
    ("event_path", "parameter"), [("Widget/toggle", "component_id"), ("Product/rename", "record_id")]
)
async def test_an_event_without_its_id_is_a_bad_request(
    site: FastStateMiddleware, event_path: str, parameter: str
) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(event_path, {"title": "x"})
        plain = await client.call(event_path, {"title": "x"}, datastar=False)
    assert answer.error["status"] == 400
    assert parameter in answer.error["detail"]
    assert plain.status == 400


async def test_one_request_gets_one_instance_of_a_key(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        first, second = [(await client.get("/shoppingsession")).json() for _ in range(2)]
    assert first["is_same"] is second["is_same"] is True
    assert first["id"] == second["id"]
    assert first["key"] == second["key"]


async def test_a_component_belongs_to_one_session(site: FastStateMiddleware, browsers: Any) -> None:
    async with browsers(site, 2) as (first, second):
        await first.call("Widget/toggle", {}, ids={"component_id": "left"})
        mine = [(await first.get(f"/widget?component_id={c}")).json() for c in ("left", "right")]
        theirs = (await second.get("/widget?component_id=left")).json()
    opened = [
        one["widget"][name]["is_open"] for one, name in zip([*mine, theirs], ("left", "right", "left"), strict=True)
    ]
    assert opened == [True, False, False]


async def test_a_record_is_shared_and_separate_from_its_neighbours(site: FastStateMiddleware, browsers: Any) -> None:
    async with browsers(site, 2) as (first, second):
        await first.call("Product/rename", {"title": "Tea"}, ids={"record_id": "1"})
        titles = [(await second.get(f"/product/{n}")).json()["product"][n]["title"] for n in ("1", "2")]
    assert titles == ["Tea", ""]


async def test_the_record_in_the_path_wins_over_the_query(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        told = (await client.get("/product/7?record_id=8&id=9")).json()
    assert told["key"] == "record:Product:7"


def test_ids_with_colons_cannot_forge_another_key() -> None:
    tricky = ["a", "a:b", "a%3Ab", "b:a", ":", "%", "a:Widget", "Widget", "*", "{a}", "ä"]
    keys = [StateKey(StateScope.RECORD, "Widget", record_id=one) for one in tricky]
    keys += [StateKey(StateScope.USER, "Widget", user_id=one) for one in tricky]
    keys += [
        StateKey(StateScope.COMPONENT, "Widget", session_id=one, component_id=other)
        for one in tricky
        for other in tricky
    ]
    texts = [str(key) for key in keys]
    assert len(set(texts)) == len(keys)
    assert {text.count(":") for text in texts if text.startswith(("record:", "user:"))} == {2}
    assert {text.count(":") for text in texts if text.startswith("component:")} == {3}


async def test_a_colon_in_a_user_id_opens_no_other_profile(site: FastStateMiddleware, as_user: Any) -> None:
    async with FastStateClient(site) as client:
        await client.call(UserProfile.update_profile, "A", "a@example.org", headers=as_user("a"))
        told = [(await client.get("/userprofile", headers=as_user(u))).json() for u in ("a:UserProfile", "a%3A", "a:")]
    assert {one["name"] for one in told} == {""}


@pytest.mark.parametrize("record_id", ["x" * 257, "\x00", ""])
async def test_an_impossible_id_is_a_bad_request(site: FastStateMiddleware, record_id: str) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call("Product/rename", {"title": "x"}, ids={"record_id": record_id}, datastar=False)
    assert answer.status == 400
