"""Registration: one name, one path, one config; nothing is half done, and what is forgotten leaves nothing."""

import logging
from typing import Any

import pytest

from faststate_asgi import (
    ConfigurationError,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
    state_registry,
)


class Wheel(ReactiveState):
    """Has an event at its own path."""

    spokes: int = 0

    @event
    def turn(self) -> None:
        """Turn."""

    @event("/wheels/{name}/stop")
    def stop(self, name: str = "") -> None:
        """Stop."""


def test_a_class_is_registered_once() -> None:
    registry = StateRegistry()
    assert registry.register(Wheel) is Wheel
    registry.register(Wheel)
    registry.register(Wheel, StateConfig())
    assert len(registry) == 1
    with pytest.raises(ConfigurationError, match="another StateConfig"):
        registry.register(Wheel, StateConfig(scope=StateScope.GLOBAL))


def test_two_classes_of_one_name_are_refused_with_the_way_out() -> None:
    registry = StateRegistry()
    registry.register(Wheel)
    twin = type("Wheel", (ReactiveState,), {"__annotations__": {"a": int}, "a": 0, "__module__": __name__})
    with pytest.raises(ConfigurationError, match="name="):
        registry.register(twin)
    assert twin not in registry
    registry.register(twin, StateConfig(name="OtherWheel"))
    assert registry.named("OtherWheel") is registry.plan(twin)


def test_events_are_found_by_their_exact_paths() -> None:
    registry = StateRegistry()
    registry.register(Wheel)
    ((plan, spec, parameters),) = registry.routes("Wheel/turn")
    assert (plan.cls, spec.name, parameters) == (Wheel, "turn", {})
    ((_, spec, parameters),) = registry.routes("wheels/front/stop")
    assert (spec.name, parameters) == ("stop", {"name": "front"})
    for path in ("Wheel", "Wheel/", "Wheel/stop", "wheel/turn", "Wheel/turn/", "wheels/a/b/stop", "", "/"):
        assert list(registry.routes(path)) == [], path


def test_paths_that_overlap_are_all_found_the_exact_one_first() -> None:
    class Shelf(ReactiveState):
        """Has an exact path and patterns that match the same requests."""

        @event("/items/{number:int}", method="delete")
        def drop(self, number: int) -> None:
            """Drop."""

        @event("/items/{name}", method="put")
        def name(self, name: str) -> None:
            """Name."""

        @event("/items/7", method="post")
        def seventh(self) -> None:
            """Do what is done with this one only."""

    registry = StateRegistry()
    registry.register(Shelf)
    found = [(spec.name, parameters) for _, spec, parameters in registry.routes("items/7")]
    assert found == [("seventh", {}), ("drop", {"number": 7}), ("name", {"name": "7"})]
    digits = "9" * 5000
    assert [parameters for _, _, parameters in registry.routes(f"items/{digits}")] == [{"name": digits}]


def test_two_events_on_one_path_are_refused_and_nothing_is_registered() -> None:
    class Car(ReactiveState):
        """Takes a path that is taken."""

        @event("/wheels/{name}/stop")
        def stop(self) -> None:
            """Stop."""

    class Cart(ReactiveState):
        """Takes the same path with another name of its parameter."""

        @event("/wheels/{number:str}/stop")
        def stop(self) -> None:
            """Stop."""

    registry = StateRegistry()
    registry.register(Wheel)
    for taken in (Car, Cart):
        with pytest.raises(ConfigurationError, match="another event answers"):
            registry.register(taken)
        assert taken not in registry
    assert len(registry) == 1


def test_a_forgotten_class_leaves_nothing() -> None:
    registry = StateRegistry()
    registry.register(Wheel)
    registry.unregister(Wheel)
    registry.unregister(Wheel)
    assert len(registry) == 0
    assert list(registry.routes("wheels/front/stop")) == []
    registry.register(Wheel, StateConfig(scope=StateScope.GLOBAL))
    registry.clear()
    assert Wheel not in registry


def test_a_forgotten_class_is_not_found_by_its_name_without_its_guard() -> None:
    """The default registry knows classes that nobody registered, with a config that guards nothing."""

    class ForgottenVault(ReactiveState):
        """Guarded while it is registered."""

        @event
        def empty(self) -> None:
            """Empty."""

    try:
        assert state_registry.named("ForgottenVault") is not None
        state_registry.register(ForgottenVault, StateConfig(scope=StateScope.GLOBAL, permissions="vault"))
        state_registry.unregister(ForgottenVault)
        assert state_registry.named("ForgottenVault") is None
        assert list(state_registry.routes("ForgottenVault/empty")) == []
        assert state_registry.plan(ForgottenVault).config == StateConfig()
    finally:
        state_registry.unregister(ForgottenVault)


def test_flat_states_that_share_a_signal_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Bike(ReactiveState):
        """Shares a field."""

        spokes: int = 0

    registry = StateRegistry()
    registry.register(Wheel)
    with caplog.at_level(logging.WARNING):
        registry.register(Bike)
    assert "spokes" in caplog.text
    caplog.clear()
    other = StateRegistry()
    other.register(Wheel, StateConfig(namespace=True))
    other.register(Bike)
    assert caplog.text == ""


def test_states_of_one_namespace_that_share_a_signal_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Tyre(ReactiveState):
        """Shares no field."""

        air: int = 0

    class Rim(ReactiveState):
        """Shares a field."""

        spokes: int = 0

    registry = StateRegistry()
    with caplog.at_level(logging.WARNING):
        registry.register(Wheel, StateConfig(namespace="round"))
        registry.register(Tyre, StateConfig(namespace="round"))
        assert caplog.text == ""
        registry.register(Rim, StateConfig(namespace="round"))
    assert "spokes" in caplog.text


@pytest.mark.parametrize("thing", [int, Wheel(), ReactiveState, "Wheel", None])
def test_only_state_classes_are_registered(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match="subclass of ReactiveState"):
        StateRegistry().register(thing)


@pytest.mark.parametrize("config", [{"scope": "global"}, "global", 0])
def test_what_is_no_config_is_refused_with_the_way_out(config: Any) -> None:
    with pytest.raises(ConfigurationError, match="StateConfig"):
        StateRegistry().register(Wheel, config)
