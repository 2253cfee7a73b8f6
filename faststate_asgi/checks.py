"""What looks like a mistake in the registered classes: reported at start-up and by ``python -m faststate_asgi check``."""

from __future__ import annotations

from collections.abc import Iterator

from .binding import binder_of
from .errors import ConfigurationError
from .keys import StateScope
from .registry import StatePlan, StateRegistry

_OPEN_TO_ALL = frozenset({StateScope.GLOBAL, StateScope.RECORD})


def findings(registry: StateRegistry) -> list[str]:
    """Return one sentence for each thing that is probably not meant, with the way out."""
    return [finding for plan in registry.plans for finding in _of(plan)]


def _of(plan: StatePlan) -> Iterator[str]:
    config = plan.config
    is_guarded = not plan.guard.is_open or config.authorize is not None
    has_rule = config.authorize is not None or config.owner_field is not None or config.permissions or config.roles
    if plan.scope is StateScope.RECORD and not has_rule and not config.public:
        who = "everybody who is logged in" if plan.guard.requires_auth else "everybody"
        way_out = "" if plan.guard.requires_auth else ", or say public=True"
        yield (
            f"{plan.name}: {who} can walk through its records by their ids; give it owner_field, authorize or "
            f"permissions{way_out}"
        )
    if plan.scope in _OPEN_TO_ALL and not is_guarded and not config.public:
        for name in sorted(plan.cls.__faststate_bound__):
            if plan.events[f"set_{name}"].options.guard.is_open:
                yield f"{plan.name}.{name}: everybody can set this Bound field for everybody; guard the state"
    for spec in plan.events.values():
        try:
            binder_of(spec)
        except ConfigurationError as exc:
            yield str(exc)
