"""``Route``: what all requests for one event have in common, and which event a method and a path mean."""

from __future__ import annotations

from typing import Any

from .binding import Binder, binder_of
from .events import EventSpec
from .plans import StatePlan
from .registry import StateRegistry


class Route:
    """What all requests for one event of one registered class have in common; made with the first of them.

    Args:
        plan: the class.
        spec: the event.
    """

    def __init__(self, plan: StatePlan, spec: EventSpec) -> None:
        self.plan, self.spec = plan, spec
        self.binder: Binder = binder_of(spec)
        self.tail = f":{spec.path}:"
        config, guard = plan.config, spec.options.guard
        self.is_open = plan.guard.is_open and guard.is_open
        self.is_limited = plan.rate is not None or spec.options.rate_limit is not None
        self.is_generator = spec.is_generator
        self.is_alone = self.binder.is_alone
        self.injected = self.binder.injected
        self.is_direct = (
            self.binder.is_direct and not guard.owner_only and config.owner_field is None and config.authorize is None
        )


def find_route(registry: StateRegistry, method: str, path: str) -> tuple[Route, dict[str, Any] | None] | set[str]:
    """Return the event of a path below ``/events/`` with the path's parameters, or the methods that would have one.

    An event without parameters is noted in ``registry.found``.
    """
    others: set[str] = set()
    for plan, spec, parameters in registry.routes(path):
        if spec.method == method:
            route = Route(plan, spec)
            if not parameters:
                registry.found[method, path] = route
            return route, parameters
        others.add(spec.method)
    return others
