"""``StateRegistry``: which state classes there are, their names, and the event at a path.

``state_registry`` is the one module-level object of the package: users declare states at import time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from weakref import WeakSet

from starlette.routing import compile_path

from .config import StateConfig, checked_config, is_name
from .errors import ConfigurationError, shorten
from .events import EventSpec
from .parameters import state_in
from .plans import StatePlan, make_plan
from .state import ReactiveState

logger = logging.getLogger("faststate.registry")
S = TypeVar("S", bound=ReactiveState)
_PARAMETER = re.compile(r"\{\w+(?::str(?=\}))?")


class StateRegistry:
    """Known state classes by name and their events by path; usable from any thread that does not race itself."""

    def __init__(self) -> None:
        self._plans: dict[type[ReactiveState], StatePlan] = {}
        self._by_name: dict[str, StatePlan] = {}
        self._routes: dict[str, tuple[StatePlan, EventSpec]] = {}
        self._patterns: list[tuple[re.Pattern[str], Mapping[str, Any], str]] = []
        self._forgotten: WeakSet[type[ReactiveState]] = WeakSet()
        self.found: dict[tuple[str, str], Any] = {}
        """What ``dispatch.py`` found at a method and a path; emptied when classes come or go."""

    # -- registration ----------------------------------------------------------------------------------------------

    def register(self, cls: type[S], config: StateConfig | None = None) -> type[S]:
        """Make a state class known; the same class with the same config may be registered again.

        A class that was used before it was registered takes the config now.

        Raises:
            ConfigurationError: a config that cannot work, a name that is taken, two events on one path. Nothing is
                registered then.
        """
        if not _is_state_class(cls):
            raise ConfigurationError(f"register() takes a subclass of ReactiveState, not {shorten(cls)}")
        if config is not None and not _is_config(config):
            raise ConfigurationError(f"{cls.__name__} is registered with StateConfig(...), not with {shorten(config)}")
        known = self._plans.get(cls)
        if known is not None and known.is_implicit and config is not None:
            self.unregister(cls)
        elif known is not None:
            if config is None or config == known.config or checked_config(cls, config) == known.config:
                return cls
            raise ConfigurationError(f"{cls.__name__} is registered already, with another StateConfig")
        plan = make_plan(cls, config or StateConfig())
        other = self._by_name.get(plan.name)
        if other is not None:
            raise ConfigurationError(
                f"two state classes are named {plan.name!r}: {_place(other.cls)} and {_place(cls)}; "
                f'register one as StateConfig(name="Another{plan.name}")'
            )
        self._check_routes(plan)
        self._report_shared_signals(plan)
        self._add(plan)
        return cls

    def _add(self, plan: StatePlan) -> None:
        cls = plan.cls
        self._forgotten.discard(cls)
        for spec in plan.events.values():
            spec.state_name = plan.name
            if "{" in spec.path:
                pattern, _, convertors = compile_path("/" + spec.path)
                self._patterns.append((pattern, convertors, spec.path))
            self._routes[spec.path] = (plan, spec)
        cls.__faststate_path__ = plan.path
        cls.__faststate_needs_id__ = plan.needs_id
        cls.__faststate_id_parameter__ = plan.id_parameter
        self._plans[cls] = self._by_name[plan.name] = plan
        self.found.clear()

    def _check_routes(self, plan: StatePlan) -> None:
        """Refuse two events on one path, or on paths of one method that differ in the names of parameters only."""
        seen: set[str | tuple[str, str]] = set(self._routes)
        seen.update((spec.method, _shape(path)) for path, (_, spec) in self._routes.items() if "{" in path)
        for spec in plan.events.values():
            path = spec.options.custom_path or f"{plan.name}/{spec.name}"
            if path in seen or (spec.method, _shape(path)) in seen:
                raise ConfigurationError(
                    f"{plan.name}.{spec.name}: another event answers at {path}; give it another path"
                )
            seen.update((path, (spec.method, _shape(path))))

    def _report_shared_signals(self, plan: StatePlan) -> None:
        """Log flat states, and those of one namespace, that share a signal name: in one page they would overwrite each other."""
        mine = set(plan.codec.signals)
        for other in self._plans.values():
            shared = mine.intersection(other.codec.signals) if other.namespace == plan.namespace else None
            if shared:
                logger.warning(
                    "states %s and %s share the signals %s; in one page they overwrite each other: "
                    "give one a StateConfig(namespace=True)",
                    other.name,
                    plan.name,
                    ", ".join(sorted(shared)),
                )

    def unregister(self, cls: type[ReactiveState]) -> None:
        """Forget a class; unknown ones are ignored. No request finds it by its name until it is registered or used again."""
        plan = self._plans.pop(cls, None)
        if plan is None:
            return
        self._forgotten.add(cls)
        del self._by_name[plan.name]
        self._routes = {path: entry for path, entry in self._routes.items() if entry[0] is not plan}
        self._patterns = [entry for entry in self._patterns if entry[2] in self._routes]
        self.found.clear()

    def clear(self) -> None:
        """Forget every class."""
        for cls in list(self._plans):
            self.unregister(cls)

    # -- look-up ---------------------------------------------------------------------------------------------------

    def plan(self, cls: type[ReactiveState]) -> StatePlan:
        """Return what is known of a class; one that was never registered gets ``StateConfig()``.

        Raises:
            ConfigurationError: no state class.
        """
        try:
            plan = self._plans.get(cls)
        except TypeError:  # an instance or a list
            raise ConfigurationError(
                f"state classes are named one by one, as transaction(Cart, (Product, 42)), not {shorten(cls)}"
            ) from None
        if plan is None:
            self.register(cls)
            plan = self._plans[cls]
            plan.is_implicit = True
        return plan

    def named(self, name: str) -> StatePlan | None:
        """Return the plan of the class with this name; the default registry knows unregistered classes too."""
        plan = self._by_name.get(name)
        if plan is None and self is state_registry and is_name(name):
            found = [cls for cls in _declared(ReactiveState) if self._may_be_implicit(cls, name)]
            if len(found) == 1:
                plan = self.plan(found[0])
        return plan

    def _may_be_implicit(self, cls: type[ReactiveState], name: str) -> bool:
        """Whether a class that nobody registered is the one of a name; a table has no scope by default."""
        is_free = cls not in self._plans and cls not in self._forgotten
        return cls.__name__ == name and is_free and not cls.__faststate_is_table__

    def routes(self, path: str) -> Iterator[tuple[StatePlan, EventSpec, dict[str, Any]]]:
        """Yield the events below ``/events/`` at ``path``, each with the path's parameters.

        The one with this very path comes first, then patterns in the order in which they were registered.
        """
        exact = self._routes.get(path)
        if exact is not None:
            yield *exact, {}
        for pattern, convertors, template in self._patterns:
            match = pattern.match("/" + path)
            if match:
                try:
                    parameters = {name: convertors[name].convert(text) for name, text in match.groupdict().items()}
                except ValueError:
                    continue  # a number with more digits than Python reads
                yield *self._routes[template], parameters
        name, _, rest = path.partition("/")
        if exact is None and rest and name not in self._by_name and self.named(name) is not None:
            implicit = self._routes.get(path)
            if implicit is not None:
                yield *implicit, {}

    def is_state_type(self, annotation: Any) -> bool:
        """Tell whether an annotation is a registered class, or ``Optional`` of one."""
        inner = state_in(annotation)
        return inner is not None and inner in self._plans

    def config_of(self, cls: type[ReactiveState]) -> StateConfig:
        """Return the checked config of a class."""
        return self.plan(cls).config

    @property
    def plans(self) -> list[StatePlan]:
        """All registered classes, in the order of their registration."""
        return list(self._plans.values())

    def __contains__(self, cls: object) -> bool:
        return cls in self._plans

    def __len__(self) -> int:
        return len(self._plans)


def _declared(cls: type[ReactiveState]) -> Iterable[type[ReactiveState]]:
    """Return all subclasses that are alive."""
    for child in cls.__subclasses__():
        yield child
        yield from _declared(child)


def _is_state_class(cls: object) -> bool:
    """Whether this is a class that can be registered; whoever uses no type checker may pass anything."""
    return isinstance(cls, type) and issubclass(cls, ReactiveState) and cls is not ReactiveState


def _is_config(value: object) -> bool:
    """Whether this is a config; whoever uses no type checker may pass anything."""
    return isinstance(value, StateConfig)


def _shape(path: str) -> str:
    """Return a path without the names of its parameters: paths of one shape match the same requests."""
    return _PARAMETER.sub("{", path)


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


state_registry = StateRegistry()
"""The default registry."""
