"""Configs of state classes: what contradicts itself is refused with a sentence, and what is left out is implied."""

from typing import Any

import pytest
from pydantic import BaseModel, SecretBytes, SecretStr, create_model, field_serializer

from faststate_asgi import ConfigurationError, Private, ReactiveState, StateConfig, StateRegistry, StateScope


class Wheel(ReactiveState):
    """Has one field."""

    spokes: int = 0


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
