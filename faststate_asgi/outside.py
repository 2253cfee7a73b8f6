"""What stands for a request where there is none: ``Outside`` for what pages ask, and keys made of explicit ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .guards import Guard
from .keys import StateKey, StateScope, checked_id, component_key, global_key, record_key, session_key, user_key
from .plans import StatePlan
from .registry import StateRegistry
from .wanted import Wanted, unpacked

if TYPE_CHECKING:
    from .engine import FastState


class Outside:
    """What actions and pages see where no request is served: a fragment that another process's change redraws.

    Args:
        engine: the open engine.
    """

    def __init__(self, engine: FastState) -> None:
        self._engine = engine

    @property
    def mount_url(self) -> str:
        """Where the last request found the sub-application."""
        return self._engine.last_mount_url

    @property
    def heartbeat_s(self) -> float:
        """The silence after which a stream sends something."""
        return self._engine.settings.heartbeat

    @property
    def script_url(self) -> str:
        """Where the Datastar module comes from."""
        return self._engine.script_url(self.mount_url)

    async def check(self, guard: Guard) -> None:
        """Refuse: there is nobody to let pass."""
        raise ConfigurationError("@requires_auth works inside a request only")

    def check_from_thread(self, guard: Guard) -> None:
        """Refuse: there is nobody to let pass."""
        raise ConfigurationError("@requires_auth works inside a request only")


def pairs_outside(
    registry: StateRegistry,
    wanted: Sequence[Wanted],
    user_id: Any = None,
    session_id: str | None = None,
    record_id: Any = None,
    component_id: Any = None,
) -> list[tuple[StatePlan, StateKey]]:
    """Return classes and keys of what ``FastState.transaction`` was asked for, or ``get``, or ``delete``.

    Raises:
        ConfigurationError: an id is missing, or belongs to none of several classes.
    """
    return [
        (plan, _key(plan, own_id, user_id, session_id))
        for plan, own_id in unpacked(registry.plan, tuple(wanted), record_id, component_id)
    ]


def _key(plan: StatePlan, own_id: Any, user_id: Any, session_id: str | None) -> StateKey:
    """Return a key made of explicit ids.

    Raises:
        ConfigurationError: one that the scope needs is missing, or one that it does not have is given.
    """

    def need(value: Any, name: str) -> str:
        if value is None:
            raise ConfigurationError(f"{plan.name} has {plan.scope.value} scope: pass {name}=")
        return checked_id(str(value), name)

    plan.check_own_id(own_id)
    match plan.scope:
        case StateScope.GLOBAL:
            return global_key(plan.name)
        case StateScope.SESSION:
            return session_key(plan.name, need(session_id, "session_id"))
        case StateScope.USER:
            return user_key(plan.name, plan.row_id(need(user_id, "user_id")))
        case StateScope.COMPONENT:
            return component_key(plan.name, need(session_id, "session_id"), need(own_id, "component_id"))
        case StateScope.RECORD:
            return record_key(plan.name, plan.row_id(need(own_id, "record_id")))
