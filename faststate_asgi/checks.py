"""What looks like a mistake in the registered classes and in routes: reported at start-up and by the command ``check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .binding import binder_of
from .errors import ConfigurationError
from .keys import StateScope
from .parameters import kept_signatures, state_in
from .plans import StatePlan
from .registry import StateRegistry

_OPEN_TO_ALL = frozenset({StateScope.GLOBAL, StateScope.RECORD})


def findings(registry: StateRegistry) -> list[str]:
    """Return one sentence for each thing that is probably not meant, with the way out."""
    return [finding for plan in registry.plans for finding in _of(plan)]


def route_findings(app: Any) -> list[str]:
    """Return one sentence for each parameter of a FastHTML route that gets FastHTML's session instead of its state.

    FastHTML looks at the name of such a parameter before its annotation.

    Args:
        app: any app; what it wraps is looked at too.
    """
    found: list[str] = []
    for _ in range(20):
        found += [finding for route in _routes(app) for finding in _misread(route)]
        app = getattr(app, "app", None)
    return found


def _routes(app: Any) -> Iterator[Any]:
    """Return all routes of an app or mount, as far as they are kept in lists."""
    routes: Sequence[Any] = getattr(app, "routes", ())
    for route in routes if isinstance(routes, list) else ():
        yield route
        yield from _routes(route)


def _misread(route: Any) -> Iterator[str]:
    for signature in kept_signatures(getattr(route, "endpoint", None)):
        for name, parameter in signature.parameters.items():
            cls = parameter.annotation
            if isinstance(cls, type) and state_in(cls) is not None and "session".startswith(name.lower()):
                yield (
                    f"{route.path}: FastHTML gives the parameter {name}: {cls.__name__} its session, not the state, "
                    "because of its name; rename it, or put @inject on the route"
                )


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
