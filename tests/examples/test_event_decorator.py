"""The event decorator: all its forms, on all kinds of methods, and who inherits an event."""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fasthtml.common import Div
from pydantic import Field

from faststate_asgi import (
    ConfigurationError,
    FastStateMiddleware,
    ReactiveState,
    StateRegistry,
    event,
    fragment,
    requires_auth,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class MyState(ReactiveState):
    """One method for each form of the decorator."""

    count: int = 0
    text: str = ""

    @event
    def increment(self, amount: int) -> None:
        """Bare."""
        self.count += amount

    @event()
    def increment_called(self, amount: int) -> None:
        """With empty parentheses."""
        self.count += amount

    @event("/p/sync")
    def increment_path(self, amount: int) -> None:
        """With a path."""
        self.count += amount

    @event(path="/p/named")
    def increment_named_path(self, amount: int) -> None:
        """With a path by name."""
        self.count += amount

    @event(method="put", selector="#box", merge_mode="inner")
    def increment_options(self, amount: int) -> Any:
        """With options."""
        self.count += amount
        return Div(f"now {self.count}")

    @event
    async def increment_async(self, amount: int) -> None:
        """Bare, async."""
        self.count += amount

    @event()
    async def increment_called_async(self, amount: int) -> None:
        """With empty parentheses, async."""
        self.count += amount

    @event("/p/async")
    async def increment_path_async(self, amount: int) -> None:
        """With a path, async."""
        self.count += amount

    @event(method="put", selector="#box", mode="inner")
    async def increment_options_async(self, amount: int) -> Any:
        """With options, async."""
        self.count += amount
        return Div(f"now {self.count}")

    @event
    def my_event(self, param: str) -> None:
        """Set a property."""
        self.text = param

    def not_an_event(self) -> None:
        """Change something; pages cannot ask for it."""
        self.count = -1


class Derived(MyState):
    """Inherits events, replaces one with an event and hides one."""

    @event
    def increment(self, amount: int) -> None:
        """Count double."""
        self.count += 2 * amount

    def my_event(self, param: str) -> None:
        """Not decorated again, so no event any more."""
        self.text = "hidden " + param


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """A site with the one class."""
    registry.register(MyState)
    app, _ = new_app()
    return wrap(app)


POST = {"Datastar-Request": "true"}


async def test_posting_to_the_address_of_an_event_runs_it(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        response = await client.post("/faststate/events/MyState/increment", json={"amount": 3}, headers=POST)
        assert (response.status, response.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        assert 'data: signals {"count":3}' in response.text


@pytest.mark.parametrize(
    "path",
    [
        "MyState/increment",
        "MyState/increment_called",
        "p/sync",
        "p/named",
        "MyState/increment_async",
        "MyState/increment_called_async",
        "p/async",
    ],
)
async def test_every_form_of_the_decorator_makes_an_event(site: FastStateMiddleware, path: str) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call(path, {"amount": 3})).signals == {"count": 3}
        assert (await client.call(path, {"amount": 4})).signals == {"count": 7}


@pytest.mark.parametrize("name", ["increment_options", "increment_options_async"])
async def test_method_selector_and_mode_are_heeded(site: FastStateMiddleware, name: str) -> None:
    action = getattr(MyState, name)(2)
    assert action.startswith(f"@put('/faststate/events/MyState/{name}', {{payload: {{\"amount\": 2}}")
    async with FastStateClient(site) as client:
        answer = await client.call(getattr(MyState, name), 2)
        refused = await client.post(f"/faststate/events/MyState/{name}", json={"amount": 2}, headers=POST)
    assert answer.signals == {"count": 2}
    assert (answer.elements[0].selector, answer.elements[0].mode) == ("#box", "inner")
    assert (refused.status, refused.headers["allow"]) == (405, "PUT")


@pytest.mark.parametrize("name", ["increment", "increment_called", "increment_path", "increment_options"])
def test_on_an_instance_an_event_is_the_method(name: str) -> None:
    state = MyState()
    getattr(state, name)(amount=5)
    assert state.count == 5


async def test_on_an_instance_an_async_event_is_the_async_method() -> None:
    state = MyState()
    await state.increment_async(5)
    await state.increment_path_async(amount=1)
    assert state.count == 6


async def test_an_event_sets_a_property_and_answers_with_just_that(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call(MyState.my_event, "value")).signals == {"text": "value"}


async def test_a_method_without_the_decorator_cannot_be_called(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        for name in ("not_an_event", "model_dump", "__init__", "_x", "increment_path", "nothing"):
            assert (await client.call(f"MyState/{name}", {})).status == 404
        assert (await client.call(MyState.increment, 1)).signals == {"count": 1}


async def test_inherited_events_count_and_an_override_is_decorated_again(
    new_app: Any, wrap: Any, registry: StateRegistry
) -> None:
    registry.register(Derived)
    app, _ = new_app()
    async with FastStateClient(wrap(app)) as client:
        assert (await client.call("Derived/increment_async", {"amount": 1})).signals == {"count": 1}
        assert (await client.call("Derived/increment", {"amount": 1})).signals == {"count": 3}
        assert (await client.call("Derived/my_event", {"param": "x"})).status == 404


def test_the_address_of_an_inherited_event_names_the_class() -> None:
    assert Derived.increment_async(1).startswith("@post('/faststate/events/Derived/increment_async'")


@pytest.mark.parametrize(
    "options",
    [
        {"method": "steal"},
        {"mode": "explode"},
        {"merge_mode": "upsert"},
        {"selector": "#a\n#b"},
        {"timeout": 0},
        {"timeout": None},
        {"timeout": "5"},
        {"timeout": True},
        {"path": 5},
        {"path": "/{number:foo}"},
        {"path": "/{number}/{number}"},
        {"method": None},
        {"mode": 5},
        {"selector": 5},
        {"requires_auth": "yes"},
        {"owner_only": 1},
        {"broadcast": "no"},
        {"inline": "no"},
    ],
    ids=str,
)
def test_an_option_that_cannot_work_is_refused_when_the_class_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}|mode|one line"):
        event(**options)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError):
        event(route="/x")  # type: ignore[call-overload]


def test_two_events_cannot_share_one_path(registry: StateRegistry) -> None:
    def first(self: Any) -> None:
        """Take the path."""

    def second(self: Any) -> None:
        """Want the same path."""

    body = {"__module__": __name__, "first": event("/same")(first), "second": event("/same")(second)}
    with pytest.raises(ConfigurationError, match="same"):
        registry.register(type("Clash", (ReactiveState,), body))


def without_self() -> None:
    """No method."""


def positional(self: Any, amount: int, /) -> None:
    """Takes no names."""


def field_default(self: Any, amount: int = Field(3, ge=1)) -> None:
    """Would get the field itself."""


def aliased(self: Any, amount: Annotated[int, Field(alias="much")]) -> None:
    """Would come under another name."""


@pytest.mark.parametrize(
    ("method", "way_out"),
    [
        (without_self, r"def without_self\(self\)"),
        (positional, "leave out the '/'"),
        (field_default, "Annotated"),
        (aliased, "rename"),
    ],
)
def test_a_method_that_no_request_could_call_is_refused_with_the_way_out(
    method: Callable[..., Any], way_out: str
) -> None:
    with pytest.raises(ConfigurationError, match=way_out):
        event(method)


def test_a_default_beside_its_constraints_is_fine() -> None:
    def take(self: Any, /, amount: Annotated[int, Field(ge=1)] = 3) -> None:
        """Take some."""

    event(take)


@pytest.mark.parametrize("wrapper", [classmethod, staticmethod])
@pytest.mark.parametrize("made", [event, fragment(on="count")])
def test_an_event_or_fragment_that_is_no_method_of_an_instance_is_refused(wrapper: Any, made: Any) -> None:
    def method(self: Any) -> None:
        """Do nothing."""

    body = {"__module__": __name__, "__annotations__": {"count": int}, "count": 0, "method": wrapper(made(method))}
    with pytest.raises(ConfigurationError, match=f"leave out @{wrapper.__name__}"):
        type("Unbound", (ReactiveState,), body)


def test_a_guard_above_the_event_is_refused() -> None:
    def method(self: Any) -> None:
        """Do nothing."""

    with pytest.raises(ConfigurationError, match="below @event"):
        requires_auth()(event(method))


def test_a_guards_flag_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="owner_only"):
        requires_auth(owner_only="no")  # type: ignore[arg-type]


def passing_on(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function around any method, as decorators that know nothing of coroutines make it."""

    @functools.wraps(method)
    def passed_on(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("amount") == 0:
            return "nothing"
        return method(self, *args, **kwargs)

    return passed_on


class Wrapped(ReactiveState):
    """Async and plain methods in plain wrappers."""

    count: int = 0

    @event
    @passing_on
    async def add_async(self, amount: int) -> None:
        """Add on the loop."""
        self.count += amount

    @event
    @passing_on
    def add(self, amount: int) -> None:
        """Add in a thread."""
        self.count += amount


@pytest.mark.parametrize("name", ["add_async", "add"])
async def test_a_method_in_a_plain_wrapper_works(wrap: Any, registry: StateRegistry, new_app: Any, name: str) -> None:
    registry.register(Wrapped)
    site, _ = new_app()
    async with FastStateClient(wrap(site)) as client:
        added = await client.call(getattr(Wrapped, name), 4)
        nothing = await client.call(getattr(Wrapped, name), 0)
    assert added.signals == {"count": 4}
    assert "nothing" in nothing.text
