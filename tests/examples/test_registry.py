"""The registry: what it knows, what it refuses, and what goes when a session goes."""

from typing import Any, Optional

import pytest
from starlette.responses import JSONResponse

from faststate_asgi import (
    ConfigurationError,
    FastStateMiddleware,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
)

pytestmark = pytest.mark.anyio


class Known(ReactiveState):
    """A class that the tests register."""

    n: int = 0

    @event
    def add(self, amount: int = 1) -> None:
        """Add to the number."""
        self.n += amount


class Stranger(ReactiveState):
    """A class that nobody registers."""

    m: int = 0


class Everybody(ReactiveState):
    """A number for all."""

    total: int = 0

    @event
    def add_to_all(self) -> None:
        """Add one."""
        self.total += 1


def test_a_new_registry_knows_no_class() -> None:
    registry = StateRegistry()
    assert len(registry) == 0
    assert Known not in registry
    assert not registry.is_state_type(Known)


def test_a_registered_class_is_known_with_its_config(registry: StateRegistry) -> None:
    config = StateConfig(scope=StateScope.GLOBAL, ttl=3600)
    registry.register(Known, config)
    assert registry.is_state_type(Known)
    assert registry.config_of(Known) == config


def test_registering_without_a_config_means_session_scope(registry: StateRegistry) -> None:
    registry.register(Known)
    assert registry.config_of(Known).scope is StateScope.SESSION


@pytest.mark.parametrize(
    "values",
    [
        {"ttl": -1},
        {"ttl": 0},
        {"persistence_backend": "punch cards"},
        {"scope": StateScope.RECORD, "owner_field": "no_such_field"},
        {"rate_limit": "often"},
        {"scope": "galaxy"},
    ],
)
def test_an_invalid_config_leaves_nothing_behind(registry: StateRegistry, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        registry.register(Known, StateConfig(**values))
    assert not registry.is_state_type(Known)
    registry.register(Known, StateConfig())
    assert registry.is_state_type(Known)


def test_a_class_and_its_optional_are_state_types(registry: StateRegistry) -> None:
    registry.register(Known)
    for annotation in (Known, Optional[Known], Known | None, None | Known):  # noqa: UP045
        assert registry.is_state_type(annotation), annotation


@pytest.mark.parametrize(
    "annotation", [list[Known], dict[str, Known], Known | int, Stranger, int, None, "Known", ReactiveState]
)
def test_other_annotations_are_no_state_types(registry: StateRegistry, annotation: Any) -> None:
    registry.register(Known)
    assert registry.is_state_type(annotation) is False


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """A page that tells the session and both numbers."""
    registry.register(Known, StateConfig(ttl=3600))
    registry.register(Everybody, StateConfig(scope=StateScope.GLOBAL))
    app, rt = new_app()

    @rt("/")
    def home(req, known: Known, everybody: Everybody) -> Any:  # type: ignore[no-untyped-def]
        return JSONResponse([req.scope["faststate"].session_id, known.n, everybody.total])

    return wrap(app)


async def test_clearing_a_session_takes_its_states_and_no_others(site: FastStateMiddleware, browsers: Any) -> None:
    async with browsers(site, 2) as (first, second):
        for client in (first, second):
            await client.call(Known.add, 7)
            await client.call(Everybody.add_to_all)
        session_id, number, total = (await first.get("/")).json()
        assert (number, total) == (7, 2)
        await site.faststate.clear_session_states(session_id)
        after = [(await client.get("/")).json()[1:] for client in (first, second)]
    assert after == [[0, 2], [7, 2]]


async def test_a_cleared_session_can_be_used_again(site: FastStateMiddleware, browsers: Any) -> None:
    async with browsers(site, 1) as (client,):
        await client.call(Known.add, 7)
        await site.faststate.clear_session_states((await client.get("/")).json()[0])
        assert (await client.call(Known.add, 2)).signals == {"n": 2}
