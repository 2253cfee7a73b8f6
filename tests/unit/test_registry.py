"""Registration: one name, one path, one config; everything else is refused with a sentence, and nothing is half done."""

import logging
from typing import Any

import pytest
from pydantic import BaseModel, Field, PrivateAttr, SecretBytes, SecretStr, create_model, field_serializer

from faststate_asgi import (
    ConfigurationError,
    InvalidStateError,
    Private,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
    state_registry,
)
from tests.hardening.wrapping import RECORD, wrapped


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


@pytest.mark.parametrize(
    "options",
    [
        {"scope": "galaxy"},
        {"ttl": 0},
        {"ttl": -5},
        {"ttl": "5"},
        {"ttl": True},
        {"ttl": float("inf")},
        {"ttl": float("nan")},
        {"ttl": 1e12},
        {"persistence_backend": "disk"},
        {"auto_persist": True, "persistence_backend": "memory"},
        {"expire": True},
        {"record_key": "order_id"},
        {"create": True},
        {"name": "my state"},
        {"name": "a/b"},
        {"namespace": "a.b"},
        {"namespace": "1a"},
        {"rate_limit": "often"},
        {"schema_version": 0},
        {"schema_version": True},
        {"requires_auth": "no"},
        {"name": 5},
        {"scope": "record", "record_key": ""},
        {"scope": "record", "record_key": 5},
        {"upgrade": 5},
    ],
)
def test_a_config_that_cannot_work_is_refused(options: dict[str, Any]) -> None:
    registry = StateRegistry()
    with pytest.raises(ConfigurationError):
        registry.register(Wheel, StateConfig(**options))
    assert len(registry) == 0


@pytest.mark.parametrize("thing", [int, Wheel(), ReactiveState, "Wheel", None])
def test_only_state_classes_are_registered(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match="subclass of ReactiveState"):
        StateRegistry().register(thing)


@pytest.mark.parametrize("config", [{"scope": "global"}, "global", 0])
def test_what_is_no_config_is_refused_with_the_way_out(config: Any) -> None:
    with pytest.raises(ConfigurationError, match="StateConfig"):
        StateRegistry().register(Wheel, config)


def test_a_user_state_needs_a_user() -> None:
    registry = StateRegistry()
    registry.register(Wheel, StateConfig(scope=StateScope.USER))
    assert registry.config_of(Wheel).requires_auth is True


def test_permissions_and_roles_that_can_be_read_once_guard_every_class() -> None:
    class Gear(ReactiveState):
        """Is registered with the same config."""

    config = StateConfig(permissions=(name for name in ["ride"]), roles=iter(["rider"]))
    registry = StateRegistry()
    for cls in (Wheel, Gear, Wheel):
        registry.register(cls, config)
        guard = registry.plan(cls).guard
        assert (guard.permissions, guard.roles) == ({"ride"}, {"rider"})


class Login(BaseModel):
    """Inside a state."""

    password: SecretStr | None = None


@pytest.mark.parametrize("kind", [SecretStr, dict[str, SecretBytes], Private[list[Login]]], ids=str)
def test_values_that_would_be_stored_as_asterisks_are_refused(kind: Any) -> None:
    state = create_model("Account", __base__=ReactiveState, secret=(kind, ...))
    with pytest.raises(ConfigurationError, match="asterisks"):
        StateRegistry().register(state)


def test_a_secret_that_the_class_dumps_itself_is_kept() -> None:
    class Account(ReactiveState):
        """Says what is stored."""

        secret: Private[SecretStr] = SecretStr("")

        @field_serializer("secret")
        def dumped(self, value: SecretStr) -> str:
            """Dump the value itself."""
            return value.get_secret_value()

    codec = StateRegistry().register(Account).__faststate_codec__()
    loaded = codec.load(codec.dump(Account(secret=SecretStr("open"))))
    assert isinstance(loaded, Account)
    assert loaded.secret.get_secret_value() == "open"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            create_model("Extra", __base__=type("Base", (ReactiveState,), {"model_config": {"extra": "allow"}})),
            "extra=",
        ),
        (create_model("Excluding", __base__=ReactiveState, a=(int, Field(0, exclude_if=bool))), "exclude_if"),
        (create_model("Typed", __base__=ReactiveState, a=(type[BaseModel], BaseModel)), "cannot be stored"),
        (create_model("Groß", __base__=ReactiveState, a=(int, 0)), "name="),
    ],
    ids=lambda item: getattr(item, "__name__", None),
)
def test_a_class_that_cannot_be_kept_is_refused(state: type[ReactiveState], message: str) -> None:
    registry = StateRegistry()
    with pytest.raises(ConfigurationError, match=message):
        registry.register(state)
    assert state not in registry


class Order(ReactiveState):
    """Has a required field beside others of every kind."""

    label: str
    copies: str = Field(default_factory=lambda data: f"{data['label']}!")
    items: list[int] = []
    total: int = 0
    _seen: dict[str, int] = PrivateAttr(default_factory=dict)
    _limit: int = 3
    _unset: int


class Only(ReactiveState):
    """Has one plain field, which is required, and one that is not plain."""

    label: str
    items: list[int] = []


class Second(ReactiveState):
    """Has one plain field, and one that is not plain and required."""

    total: int = 0
    items: list[int]


@pytest.mark.anyio
async def test_a_state_with_required_fields_is_made_in_a_transaction() -> None:
    app = wrapped(*((cls, RECORD) for cls in (Order, Only, Second)))
    async with app.faststate as engine:
        for cls, field in ((Order, "label"), (Only, "label"), (Second, "items")):
            with pytest.raises(InvalidStateError, match=rf"{cls.__name__}.{field}: Field required"):
                async with engine.transaction(cls, record_id="1"):
                    """Leave the required field unset."""
        async with engine.transaction(Order, record_id="1") as order:
            order._seen["a"] = order._limit
            assert not hasattr(order, "_unset")
            order.label = "first"
        async with engine.transaction(Only, record_id="1") as only:
            only.label = "first"
        async with engine.transaction(Second, record_id="1") as second:
            second.items = [1]
        stored = await engine.get(Order, record_id="1")
        assert (stored.label, stored.copies, stored.items, stored._limit) == ("first", "first!", [], 3)
        assert (await engine.get(Only, record_id="1")).label == "first"
        assert (await engine.get(Second, record_id="1")).items == [1]
