"""``StateConfig`` and ``StateRegistry``: which state classes there are, how each is scoped and guarded, and its events.

``state_registry`` is the one module-level object of the package: users declare states at import time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakSet

from pydantic import ValidationError
from pydantic_core import PydanticUndefined, from_json, to_json
from starlette.routing import compile_path

from . import frames
from .codec import Codec
from .errors import ConfigurationError, StoreUnavailableError, check_kind, shorten
from .events import EventSpec
from .guards import Guard, make_guard, names
from .key_column import KeyColumn
from .keys import StateScope
from .limits import Rate, parse_rate
from .parameters import state_in
from .patches import POISON_KEYS, Json
from .schemas import masks_values
from .state import ReactiveState

if TYPE_CHECKING:
    from .identity import Identity
    from .keys import StateKey

logger = logging.getLogger("faststate.registry")
S = TypeVar("S", bound=ReactiveState)

Backend = Literal["memory", "database", "redis"]
Authorize = Callable[["Identity | None", "StateKey", Literal["read", "write", "watch"]], "bool | Awaitable[bool]"]
BACKENDS = frozenset({"memory", "database", "redis"})
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_PARAMETER = re.compile(r"\{\w+(?::str(?=\}))?")
_OWN_ID_SCOPES = frozenset({StateScope.RECORD, StateScope.COMPONENT})
FALLBACK_OWNER = "user_id"
MAX_TTL_S = 100 * 365.25 * 86400


@dataclass(frozen=True, slots=True, kw_only=False)
class StateConfig:
    """How a state class is shared, stored and guarded.

    Args:
        scope: who shares one instance.
        requires_auth: somebody must be logged in; implied by ``USER`` scope, permissions, roles and ``owner_field``.
        ttl: seconds without a write after which the state is as never stored; None keeps it.
        auto_persist: keep it in a durable store.
        permissions: any one of them is enough.
        roles: any one of them is enough.
        persistence_backend: ``"memory"``, ``"database"`` or ``"redis"``; None lets the settings decide.
        expire: with ``auto_persist``, ``ttl`` deletes the durable state too.
        owner_field: the field with the owner's user id; nobody else passes any door.
        authorize: ``(identity, key, action)`` with action ``"read"``, ``"write"`` or ``"watch"``; sync or async.
        public: says that everybody may see and change every record.
        record_key: the request parameter that holds the record id.
        create: a missing row of a ``table=True`` state is made from defaults.
        namespace: nests the signals under this name; True means the class name.
        name: the name in keys and URLs; the class name by default.
        rate_limit: such as ``"5/s"``, per session, for each event.
        schema_version: of the stored form; ``upgrade(data, from_version)`` brings older ones up.
        upgrade: see ``schema_version``.
    """

    scope: StateScope = StateScope.SESSION
    requires_auth: bool = False
    ttl: float | None = None
    auto_persist: bool = False
    permissions: Iterable[str] = ()
    roles: Iterable[str] = ()
    persistence_backend: Backend | None = None
    expire: bool = False
    owner_field: str | None = None
    authorize: Authorize | None = None
    public: bool = False
    record_key: str | None = None
    create: bool = False
    namespace: str | bool | None = None
    name: str | None = None
    rate_limit: str | None = None
    schema_version: int = 1
    upgrade: Callable[[dict[str, Json], int], dict[str, Json]] | None = None

    def __post_init__(self) -> None:
        """Keep what an iterator gives: the second who asks it would get nothing."""
        for name, value in (("permissions", self.permissions), ("roles", self.roles)):
            if isinstance(value, Iterator):
                object.__setattr__(self, name, tuple(value))


@dataclass
class StatePlan:
    """One registered class: its config checked and everything that requests look up.

    ``shape`` marks its snapshots: the schema version and a digest of the names of its fields.
    """

    cls: type[ReactiveState]
    name: str
    config: StateConfig
    guard: Guard
    rate: Rate | None
    events: Mapping[str, EventSpec]
    namespace: str | None
    has_default: bool
    shape: str
    is_implicit: bool = field(default=False, kw_only=True)
    codec: Codec = field(repr=False)
    key_column: KeyColumn | None = field(default=None, kw_only=True)
    """Of a ``table=True`` state."""
    scope: StateScope = field(init=False)
    """Who shares one instance."""
    is_simple: bool = field(init=False)
    """Whether all there is of it are public scalars, and any may change."""

    def __post_init__(self) -> None:
        self.scope = self.config.scope
        self.is_simple = self.codec.is_simple and self.key_column is None

    @cached_property
    def signals_around(self) -> tuple[bytes, bytes]:
        """What stands around the JSON of changed signals in a frame, where no id is in their path."""
        return frames.signals_around(() if self.namespace is None else (self.namespace,))

    def loaded(self, data: bytes, shape: str) -> tuple[ReactiveState, dict[str, Json] | None]:
        """Return the state of a snapshot, and unknown fields that are carried along until ``schema_version`` rises.

        Raises:
            StoreUnavailableError: the snapshot does not fit the class, or ``upgrade`` failed.
        """
        try:
            if shape == self.shape:
                return self.codec.load(data), None
            version = int(head) if (head := shape.partition(":")[0]).isdigit() else 1
            if version < self.config.schema_version:
                return self.codec.load(self.codec.known(self._upgraded(data, version))), None
            return self.codec.load(self.codec.known(data)), self.codec.unknown(data)
        except ValueError as exc:  # a ValidationError, or no JSON at all
            raise self.unreadable(exc) from None

    def _upgraded(self, data: bytes, version: int) -> bytes:
        """Return a snapshot of an older ``schema_version`` in today's form."""
        try:
            fields: dict[str, Json] = from_json(data)
            if self.config.upgrade is not None:
                fields = self.config.upgrade(fields, version)
            return to_json(fields)
        except Exception as exc:  # of the app's own function, which may raise anything
            raise self.unreadable(exc) from None

    def unreadable(self, exc: Exception) -> StoreUnavailableError:
        """Return the error of a snapshot that cannot be loaded; the log has the reason, and no value: it may be private."""
        if isinstance(exc, ValidationError):
            errors = exc.errors(include_url=False, include_context=False, include_input=False)
            whole = "JSON" if self.key_column is None else "a column"
            reason = ", ".join(f"{error['loc'][0] if error['loc'] else whole}: {error['type']}" for error in errors[:5])
        else:
            (*_, last) = extract_tb(exc.__traceback__)
            reason = f"{type(exc).__name__} in {last.name}, line {last.lineno} of {last.filename}"
        logger.error("a stored %s cannot be read: %s", self.name, reason)
        return StoreUnavailableError(f"A stored {self.name} cannot be read")

    def new(self, key: StateKey | None) -> ReactiveState:
        """Return a state that was never stored: defaults, required fields not set yet."""
        if self.key_column is None and self.has_default:
            return self.cls()
        if self.key_column is None or key is None:
            return _blank(self.cls)
        return _blank(self.cls, **{self.key_column.name: self.key_column.value_of(key)})

    def check_own_id(self, own_id: Any) -> None:
        """Refuse a record or component id for a state that has none; None is no id.

        Raises:
            ConfigurationError: says which scope the state has.
        """
        if own_id is not None and self.scope not in _OWN_ID_SCOPES:
            raise ConfigurationError(f"{self.name} has {self.scope.value} scope: it takes no record_id or component_id")

    @property
    def must_exist(self) -> bool:
        """Whether only others make it: a row of a table, unless ``create=True``."""
        return self.key_column is not None and not self.config.create

    def row_id(self, own_id: str) -> str:
        """Return a record's or user's id as the key column of a table spells it.

        Raises:
            StateNotFoundError: no row can have it.
        """
        return own_id if self.key_column is None else self.key_column.canonical(own_id)

    @property
    def id_parameter(self) -> str:
        """The request parameter that holds the record or component id."""
        if self.scope is StateScope.COMPONENT:
            return "component_id"
        return self.config.record_key or "record_id"

    def owner_of(self, state: ReactiveState) -> str | None:
        """Return the owner's user id, None if there is no owner (nobody passes then)."""
        if self.config.owner_field is None and self.scope is StateScope.USER:
            return None if state.key is None else state.key.user_id
        value = getattr(state, self.config.owner_field or FALLBACK_OWNER, None)
        return None if value is None or value == "" else str(value)


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
            if config is None or config == known.config or _normal(cls, config) == known.config:
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
        cls.__faststate_namespace__ = plan.namespace
        cls.__faststate_needs_id__ = plan.scope in _OWN_ID_SCOPES
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
        if plan is None and self is state_registry and _NAME.fullmatch(name):
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


def _blank(cls: type[ReactiveState], **values: Any) -> ReactiveState:
    """Return an instance whose required fields are not set yet; they are validated at the commit."""
    state = cls.__new__(cls)
    fields: dict[str, Any] = {}
    for name, info in cls.model_fields.items():
        # What is made of other fields waits for them: validation makes it at the commit.
        if not info.is_required() and not info.default_factory_takes_validated_data:
            fields[name] = info.get_default(call_default_factory=True)
    object.__setattr__(state, "__dict__", {**fields, **values})
    if cls.__private_attributes__:
        made = {
            name: info.get_default(call_default_factory=True)
            for name, info in cls.__private_attributes__.items()
            if not info.default_factory_takes_validated_data
        }
        kept = {name: value for name, value in made.items() if value is not PydanticUndefined}
        object.__setattr__(state, "__pydantic_private__", kept)
    return state


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


def _normal(cls: type[ReactiveState], config: StateConfig) -> StateConfig:
    """Return the config with names as tuples and implied values filled in.

    Raises:
        ConfigurationError: unknown or contradicting values.
    """
    try:
        scope = StateScope(config.scope)
    except ValueError:
        known = ", ".join(scope.value for scope in StateScope)
        raise ConfigurationError(f"{cls.__name__}: unknown scope {shorten(config.scope)}; use one of {known}") from None
    check_kind(bool, {"requires_auth": config.requires_auth}, f"{cls.__name__}: ")
    guard = make_guard(
        config.requires_auth or scope is StateScope.USER,
        config.permissions,
        config.roles,
        config.owner_field is not None,
    )
    result = replace(
        config,
        scope=scope,
        requires_auth=guard.requires_auth,
        permissions=tuple(sorted(names(config.permissions, "permissions"))),
        roles=tuple(sorted(names(config.roles, "roles"))),
    )
    _check(cls, result, guard)
    return result


def _is_positive_integer(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_text(value: object) -> bool:
    """Whether this is text with something in it; whoever uses no type checker may pass anything."""
    return isinstance(value, str) and bool(value)


def _check(cls: type[ReactiveState], config: StateConfig, guard: Guard) -> None:
    """Refuse what contradicts itself."""
    where = cls.__name__
    is_table = cls.__faststate_is_table__
    check_kind(
        bool, {name: getattr(config, name) for name in ("auto_persist", "expire", "public", "create")}, f"{where}: "
    )
    if config.ttl is not None:
        check_kind(float, {"ttl": config.ttl}, f"{where}: ")
    if type(config.namespace) not in (type(None), bool, str) or config.namespace in POISON_KEYS:
        raise ConfigurationError(f"{where}: namespace {shorten(config.namespace)} cannot be used; take another name")
    problems = [
        (
            config.ttl is not None and not 0 < config.ttl <= MAX_TTL_S,
            "ttl must be greater than 0 seconds and at most 100 years; None lets it stay",
        ),
        (
            config.persistence_backend is not None and config.persistence_backend not in BACKENDS,
            f"unknown persistence_backend {shorten(config.persistence_backend)}; use one of {', '.join(sorted(BACKENDS))}",
        ),
        (
            config.auto_persist and config.persistence_backend == "memory",
            'auto_persist=True and persistence_backend="memory" contradict each other: memory is not durable',
        ),
        (config.expire and config.ttl is None, "expire=True needs a ttl"),
        (
            config.public and (not guard.is_open or config.authorize is not None),
            "public=True contradicts requires_auth, permissions, roles, owner_field and authorize",
        ),
        (
            config.record_key is not None and not _is_text(config.record_key),
            f"record_key must be the name of a parameter, not {shorten(config.record_key)}",
        ),
        (
            config.record_key is not None and config.scope is not StateScope.RECORD,
            "record_key is for RECORD scope only",
        ),
        (config.create and not is_table, "create=True is for table=True states only"),
        (
            is_table and config.scope in (StateScope.SESSION, StateScope.COMPONENT),
            "a table=True state cannot have session or component scope; use GLOBAL, USER or RECORD",
        ),
        (
            is_table and config.persistence_backend in ("memory", "redis"),
            f"a table=True state lives in a database, not in {config.persistence_backend}",
        ),
        (is_table and config.expire, "the rows of a table=True state do not expire; leave out expire=True"),
        (
            is_table and (config.upgrade is not None or config.schema_version != 1),
            "schema_version and upgrade are for states that are stored as JSON; a table is changed by a migration",
        ),
        (
            masks_values(cls.__pydantic_core_schema__),
            "SecretStr, SecretBytes and Secret are stored as asterisks and lost; use Private[str], which no page gets",
        ),
        (
            cls.model_config.get("extra") == "allow",
            'extra="allow" is not supported, unknown fields have no type and no signal; use a field of type dict',
        ),
        (
            any(info.exclude_if is not None for info in cls.model_fields.values())
            or any(info.exclude_if is not None for info in cls.model_computed_fields.values()),
            "exclude_if cannot be followed: a page keeps what it was sent; use Private, or a computed field that is None",
        ),
        (is_table and bool(cls.__sqlmodel_relationships__), "a table=True state cannot have relationships"),
        (
            config.owner_field is not None and config.owner_field not in cls.model_fields,
            f"owner_field {shorten(config.owner_field)} is no field",
        ),
        (config.authorize is not None and not callable(config.authorize), "authorize must be callable"),
        (config.upgrade is not None and not callable(config.upgrade), "upgrade must be callable"),
        (not _is_positive_integer(config.schema_version), "schema_version must be 1 or more"),
        (
            config.name is not None and not (_is_text(config.name) and _NAME.fullmatch(config.name)),
            f"name {shorten(config.name)} must be letters, digits and underscores, beginning with a letter",
        ),
        (
            isinstance(config.namespace, str) and not _NAME.fullmatch(config.namespace),
            f"namespace {shorten(config.namespace)} must be letters, digits and underscores, beginning with a letter",
        ),
    ]
    for is_wrong, message in problems:
        if is_wrong:
            raise ConfigurationError(f"{where}: {message}")
    for spec in cls.__faststate_events__.values():
        has_owner = config.owner_field or config.scope is StateScope.USER or FALLBACK_OWNER in cls.model_fields
        if spec.options.guard.owner_only and not has_owner:
            raise ConfigurationError(
                f"{where}.{spec.name}: owner_only needs StateConfig(owner_field=...), a field user_id, or USER scope"
            )


def _check_defaults(cls: type[ReactiveState]) -> None:
    """Refuse a class whose state could be written once and never be read again."""
    try:
        state = cls()
    except Exception:  # a default that only a request can give
        return
    codec = cls.__faststate_codec__()
    try:
        data = codec.dump(state)
        stored = from_json(data)
        codec.odd_defaults = {name: stored.get(name) for name in _refused_defaults(cls, state)}
        codec.validated(data)
    except Exception as exc:  # validators may raise anything
        reason = str(exc)[:200] or type(exc).__name__
        raise ConfigurationError(
            f"{cls.__name__}: what is stored of its defaults cannot be read again ({reason}); a validator must accept "
            "what it has returned"
        ) from exc


def _refused_defaults(cls: type[ReactiveState], state: ReactiveState) -> set[str]:
    """Return the fields whose default they refuse themselves, such as an empty name that must not be empty."""
    try:
        values = {name: value for name, value in vars(state).items() if name in cls.model_fields}
        cls.__pydantic_validator__.validate_python(values, by_alias=False, by_name=True)
    except ValidationError as exc:
        return {str(error["loc"][0]) for error in exc.errors(include_url=False) if error["loc"]}
    return set()


def make_plan(cls: type[ReactiveState], config: StateConfig) -> StatePlan:
    """Return the plan of a class; ``ConfigurationError`` if the config cannot work."""
    cls.__faststate_complete__()
    checked = _normal(cls, config)
    name = checked.name or cls.__name__
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"the class name {shorten(name)} cannot stand in a URL; use StateConfig(name=...)")
    namespace = name if checked.namespace is True else checked.namespace or None
    guard = Guard(
        checked.requires_auth, frozenset(checked.permissions), frozenset(checked.roles), checked.owner_field is not None
    )
    for spec in cls.__faststate_events__.values():
        parse_rate(spec.options.rate_limit, f"{name}.{spec.name}")
    key_column = KeyColumn(cls) if cls.__faststate_is_table__ else None
    if key_column is not None and key_column.name in cls.__faststate_bound__:
        raise ConfigurationError(f"{cls.__name__}.{key_column.name}: a primary key cannot be Bound; it never changes")
    required = {field for field, info in cls.model_fields.items() if info.is_required()}
    if key_column is not None:
        required.discard(key_column.name)
    elif not required:
        _check_defaults(cls)
    return StatePlan(
        cls=cls,
        name=name,
        config=checked,
        guard=guard,
        rate=parse_rate(checked.rate_limit, name),
        events=cls.__faststate_events__,
        namespace=namespace,
        has_default=not required and (key_column is None or checked.create),
        shape=f"{checked.schema_version}:{cls.__faststate_codec__().shape}",
        codec=cls.__faststate_codec__(),
        key_column=key_column,
    )


state_registry = StateRegistry()
"""The default registry."""
