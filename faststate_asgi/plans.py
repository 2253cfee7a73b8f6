"""``StatePlan``: all there is to know of one registered class, worked out once.

A plan lives as long as its class is registered. It loads snapshots and makes new states; it stores nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined, from_json, to_json

from . import frames
from .codec import Codec
from .config import FALLBACK_OWNER, StateConfig, checked_config, guard_of, is_name
from .errors import ConfigurationError, StoreUnavailableError, shorten
from .events import EventSpec
from .guards import Guard
from .key_column import KeyColumn
from .keys import StateScope
from .limits import Rate, parse_rate
from .patches import Json
from .state import ReactiveState

if TYPE_CHECKING:
    from .keys import StateKey

logger = logging.getLogger("faststate.registry")


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
    needs_id: bool = field(init=False)
    """Whether its keys have a record or component id."""
    is_simple: bool = field(init=False)
    """Whether all there is of it are public scalars, and any may change."""

    def __post_init__(self) -> None:
        self.scope = self.config.scope
        self.needs_id = self.scope in (StateScope.RECORD, StateScope.COMPONENT)
        self.is_simple = self.codec.is_simple and self.key_column is None

    @property
    def path(self) -> tuple[str, ...]:
        """Where its signals are nested in pages, without an id."""
        return () if self.namespace is None else (self.namespace,)

    @cached_property
    def signals_around(self) -> tuple[bytes, bytes]:
        """What stands around the JSON of changed signals in a frame, where no id is in their path."""
        return frames.signals_around(self.path)

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
        if own_id is not None and not self.needs_id:
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


def make_plan(cls: type[ReactiveState], config: StateConfig) -> StatePlan:
    """Return the plan of a class; ``ConfigurationError`` if the config cannot work."""
    cls.__faststate_complete__()
    checked = checked_config(cls, config)
    name = checked.name or cls.__name__
    if not is_name(name):
        raise ConfigurationError(f"the class name {shorten(name)} cannot stand in a URL; use StateConfig(name=...)")
    namespace = name if checked.namespace is True else checked.namespace or None
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
        guard=guard_of(checked),
        rate=parse_rate(checked.rate_limit, name),
        events=cls.__faststate_events__,
        namespace=namespace,
        has_default=not required and (key_column is None or checked.create),
        shape=f"{checked.schema_version}:{cls.__faststate_codec__().shape}",
        codec=cls.__faststate_codec__(),
        key_column=key_column,
    )


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
