"""``StateConfig``: how a state class is shared, stored and guarded, and what a config cannot say.

Settings of the whole engine are in ``settings.py``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from .errors import ConfigurationError, check_kind, shorten
from .guards import Guard, make_guard
from .keys import StateScope
from .patches import POISON_KEYS, Json
from .schemas import masks_values

if TYPE_CHECKING:
    from .identity import Identity
    from .keys import StateKey
    from .state import ReactiveState

Backend = Literal["memory", "database", "redis"]
Authorize = Callable[["Identity | None", "StateKey", Literal["read", "write", "watch"]], "bool | Awaitable[bool]"]
Problems = list[tuple[bool, str]]
"""Whether something is wrong, and what to say then."""
BACKENDS = frozenset({"memory", "database", "redis"})
FALLBACK_OWNER = "user_id"
"""The field with the owner's user id where ``owner_field`` names none."""
MAX_TTL_S = 100 * 365.25 * 86400
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
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


def checked_config(cls: type[ReactiveState], config: StateConfig) -> StateConfig:
    """Return the config with names as sorted tuples and implied values filled in.

    Raises:
        ConfigurationError: unknown or contradicting values, or a class that cannot be kept.
    """
    try:
        scope = StateScope(config.scope)
    except ValueError:
        known = ", ".join(scope.value for scope in StateScope)
        raise ConfigurationError(f"{cls.__name__}: unknown scope {shorten(config.scope)}; use one of {known}") from None
    check_kind(bool, {"requires_auth": config.requires_auth}, f"{cls.__name__}: ")
    guard = guard_of(config)
    result = replace(
        config,
        scope=scope,
        requires_auth=guard.requires_auth,
        permissions=tuple(sorted(guard.permissions)),
        roles=tuple(sorted(guard.roles)),
    )
    _check(cls, result, guard)
    return result


def guard_of(config: StateConfig) -> Guard:
    """Return who may pass the doors of a state with this config."""
    requires_auth = config.requires_auth or config.scope == StateScope.USER
    return make_guard(requires_auth, config.permissions, config.roles, config.owner_field is not None)


def is_name(value: object) -> bool:
    """Whether this can name a state in keys, URLs and pages; whoever uses no type checker may pass anything."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_positive_integer(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_text(value: object) -> bool:
    """Whether this is text with something in it; whoever uses no type checker may pass anything."""
    return isinstance(value, str) and bool(value)


def _check(cls: type[ReactiveState], config: StateConfig, guard: Guard) -> None:
    """Refuse what contradicts itself."""
    where = cls.__name__
    flags = {name: getattr(config, name) for name in ("auto_persist", "expire", "public", "create")}
    check_kind(bool, flags, f"{where}: ")
    if config.ttl is not None:
        check_kind(float, {"ttl": config.ttl}, f"{where}: ")
    if type(config.namespace) not in (type(None), bool, str) or config.namespace in POISON_KEYS:
        raise ConfigurationError(f"{where}: namespace {shorten(config.namespace)} cannot be used; take another name")
    problems = (
        *_contradictions(config, guard, cls.__faststate_is_table__),
        *_problems_of_class(cls),
        *_unusable_values(cls, config),
    )
    for is_wrong, message in problems:
        if is_wrong:
            raise ConfigurationError(f"{where}: {message}")
    for spec in cls.__faststate_events__.values():
        has_owner = config.owner_field or config.scope is StateScope.USER or FALLBACK_OWNER in cls.model_fields
        if spec.options.guard.owner_only and not has_owner:
            raise ConfigurationError(
                f"{where}.{spec.name}: owner_only needs StateConfig(owner_field=...), a field user_id, or USER scope"
            )


def _contradictions(config: StateConfig, guard: Guard, is_table: bool) -> Problems:
    """Return what would be wrong about how and where states are kept, and who sees them."""
    return [
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
    ]


def _problems_of_class(cls: type[ReactiveState]) -> Problems:
    """Return what would keep a class from being stored or followed, whatever its config is."""
    return [
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
        (
            cls.__faststate_is_table__ and bool(cls.__sqlmodel_relationships__),
            "a table=True state cannot have relationships",
        ),
    ]


def _unusable_values(cls: type[ReactiveState], config: StateConfig) -> Problems:
    """Return what would be wrong about the values that name something, are called or count."""
    return [
        (
            config.owner_field is not None and config.owner_field not in cls.model_fields,
            f"owner_field {shorten(config.owner_field)} is no field",
        ),
        (config.authorize is not None and not callable(config.authorize), "authorize must be callable"),
        (config.upgrade is not None and not callable(config.upgrade), "upgrade must be callable"),
        (not _is_positive_integer(config.schema_version), "schema_version must be 1 or more"),
        (
            config.name is not None and not is_name(config.name),
            f"name {shorten(config.name)} must be letters, digits and underscores, beginning with a letter",
        ),
        (
            isinstance(config.namespace, str) and not is_name(config.namespace),
            f"namespace {shorten(config.namespace)} must be letters, digits and underscores, beginning with a letter",
        ),
    ]
