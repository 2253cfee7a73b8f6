"""What a transaction is asked for: classes, some with the id of a record or component."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .errors import ConfigurationError
from .plans import StatePlan
from .state import ReactiveState

Wanted = type[ReactiveState] | tuple[type[ReactiveState], Any]


def unpacked(
    plan_of: Callable[[type[ReactiveState]], StatePlan], wanted: Sequence[Wanted], record_id: Any, component_id: Any
) -> list[tuple[StatePlan, Any]]:
    """Return each class of a transaction with its record or component id.

    Args:
        plan_of: looks a class up.
        wanted: what was asked for.
        record_id: of the only class, None if it has none.
        component_id: likewise.

    Raises:
        ConfigurationError: no class at all, or an id that belongs to none of several.
    """
    if not wanted:
        raise ConfigurationError("transaction() needs at least one state class")
    single = record_id if record_id is not None else component_id
    if single is not None and len(wanted) > 1:
        raise ConfigurationError("with several states write (State, id) instead of record_id=")
    return [(plan_of(item[0]), item[1]) if isinstance(item, tuple) else (plan_of(item), single) for item in wanted]
