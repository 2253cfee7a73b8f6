"""``ReactiveState``: what users subclass. Its events and fragments, and what a copy may be used for.

An instance is a plain object until the engine gives it a ``Bond``: the key it was loaded for, its stored version and
whether it may be written. Storing and sending are not done here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, PydanticUndefinedAnnotation
from sqlmodel import SQLModel
from sqlmodel.main import FieldInfo as ColumnInfo
from sqlmodel.main import SQLModelMetaclass
from starlette.requests import HTTPConnection
from starlette.types import Scope

from . import live
from .actions import Action, ActionBuilder
from .bonds import Bond, bind, bond_of, bonded
from .codec import Codec
from .errors import ConfigurationError, ReadOnlyStateError
from .events import Event, EventSpec, Fragment
from .fields import BOUND, add_setters, exclude_private, is_private, refuse_inner_markers, refuse_names
from .keys import StateKey, state_id
from .patches import Json, nest
from .signals import SignalAccess, SignalPaths, signal_path
from .stores.base import NO_VERSION

if TYPE_CHECKING:
    from typing import Self


class _Id:
    """``state.id``: a UUID fixed by the key; not a field, and hidden on the class so that a table may have one."""

    def __get__(self, instance: ReactiveState | None, owner: type) -> str:
        if instance is None:
            raise AttributeError("id is known on instances only")
        bond = bonded(instance)
        if bond.id is None:
            bond.id = str(uuid.uuid4()) if bond.key is None else state_id(bond.key)
        return bond.id


class Actions:
    """Action builders of one instance: ``product.actions.rename("x")`` is for that product."""

    __slots__ = ("_state",)

    def __init__(self, state: ReactiveState) -> None:
        self._state = state

    def __getattr__(self, name: str) -> ActionBuilder[...]:
        return type(self._state).__faststate_builder__(name, self._state)


class _StateType(SQLModelMetaclass):
    """Tells a class that is being made whether it is a table, which SQLModel itself says only afterwards."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Any:
        if kwargs.get("table"):
            namespace = {**namespace, "__faststate_is_table__": True}
        return super().__new__(mcs, name, bases, namespace, **kwargs)

    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> Any:
            """Complete the class for the setter of a field whose annotation could not be read when it was made."""
            if name.startswith("set_") and not cls.__dict__.get("__pydantic_complete__", True):
                cls.__faststate_complete__()
                return getattr(cls, name)
            return super().__getattr__(name)


class ReactiveState(SQLModel, metaclass=_StateType):
    """Base of every state: a class with fields and ``@event`` methods.

    Fields are validated on creation and on assignment. Outside of a request an instance is a plain object and its
    events are plain methods.
    """

    __slots__ = ("_faststate_bond",)

    model_config = ConfigDict(  # type: ignore[assignment]  # SQLModel's own config type has fewer keys
        validate_assignment=True,
        ser_json_inf_nan="constants",
        hide_input_in_errors=True,  # it may be Private
        ignored_types=(Event, Fragment, _Id, SignalAccess),
        protected_namespaces=(),
    )

    __faststate_events__: ClassVar[Mapping[str, EventSpec]] = {}
    __faststate_fragments__: ClassVar[Mapping[str, Fragment]] = {}
    __faststate_bound__: ClassVar[frozenset[str]] = frozenset()
    __faststate_private__: ClassVar[frozenset[str]] = frozenset()
    __faststate_assignable__: ClassVar[frozenset[str]] = frozenset()
    """Fields for which pydantic validates an assignment and does nothing else."""
    __faststate_path__: ClassVar[tuple[str, ...]] = ()
    """Where its signals are nested in pages, without an id."""
    __faststate_needs_id__: ClassVar[bool] = False
    __faststate_is_table__: ClassVar[bool] = False
    __faststate_is_collected__: ClassVar[bool] = False
    """Whether all annotations could be read and what they say is known."""
    __faststate_id_parameter__: ClassVar[str] = "record_id"

    if TYPE_CHECKING:
        id: Any = ColumnInfo(init=False)
        """The UUID that belongs to the key as text, the same on each read; in a table that has one, the column."""

        signal: ClassVar[SignalPaths]
    else:
        id = _Id()
        signal = SignalAccess()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Return an instance that is tied to nothing."""
        state = super().__new__(cls)
        bind(state, None)
        return state  # type: ignore[no-any-return]  # SQLModel's __new__ is not annotated

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Learn what there is to know of a new class, as far as its annotations can be read already."""
        super().__pydantic_init_subclass__(**kwargs)
        cls.__faststate_collect__()

    @classmethod
    def __pydantic_on_complete__(cls) -> None:
        """Learn the rest once names that were defined below the class are known."""
        super().__pydantic_on_complete__()
        if "__faststate_codec_cache__" in cls.__dict__:
            cls.__faststate_collect__()

    @classmethod
    def __faststate_collect__(cls) -> None:
        """Collect events, fragments, bound and private fields, inherited ones included."""
        refuse_names(cls, _BASE_NAMES)
        refuse_inner_markers(cls)
        exclude_private(cls)
        cls.__faststate_private__ = frozenset(n for n, f in cls.model_fields.items() if is_private(n, f))
        cls.__faststate_bound__ = frozenset(n for n, f in cls.model_fields.items() if BOUND in f.metadata)
        cls.__faststate_assignable__ = frozenset(n for n, f in cls.model_fields.items() if not f.frozen)
        if cls.model_config.get("frozen"):
            cls.__faststate_assignable__ = frozenset()
        add_setters(cls)
        _collect(cls)
        cls.__faststate_codec_cache__ = None
        cls.__faststate_is_collected__ = cls.__pydantic_complete__

    @classmethod
    def __faststate_complete__(cls) -> None:
        """Read the annotations that could not be read when the class was made.

        Raises:
            ConfigurationError: one of them names something that is not defined.
        """
        try:
            cls.model_rebuild()
        except PydanticUndefinedAnnotation as exc:
            raise ConfigurationError(
                f"{cls.__name__}: an annotation names {exc.name!r}, which is not defined; define or import it at "
                "module level before the class is registered or used"
            ) from exc
        if not cls.__faststate_is_collected__:
            # What was found could not be kept, or another thread is about to find it.
            cls.__faststate_collect__()

    # -- what a copy is ------------------------------------------------------------------------------------------

    @property
    def key(self) -> StateKey | None:
        """The key it was loaded for; None for a plain object."""
        bond = bond_of(self)
        return None if bond is None else bond.key

    @property
    def version(self) -> str:
        """The stored version, ``"0"`` before the first write; compare for equality only."""
        bond = bond_of(self)
        return NO_VERSION if bond is None else bond.version

    @property
    def is_read_only(self) -> bool:
        """Whether this is a copy for reading, as pages get them."""
        bond = bond_of(self)
        return bond is not None and bond.read_only

    def __setattr__(self, name: str, value: Any) -> None:
        bond: Bond | None = getattr(self, "_faststate_bond", None)
        if bond is not None and not bond.read_only and name in self.__faststate_assignable__:
            self.__pydantic_validator__.validate_assignment(self, name, value)
            return
        if bond is not None and bond.read_only and not name.startswith("_"):
            raise ReadOnlyStateError(
                f"{type(self).__name__} is a read-only copy here: {name!r} cannot be set; change it in an event, or in "
                f'`async with scope["faststate"].transaction({type(self).__name__}) as state:`'
            )
        if self.__faststate_is_table__ and bond is None:
            super().__setattr__(name, value)
        else:
            # What SQLModel adds is for rows of a database session; the engine's copies belong to none.
            BaseModel.__setattr__(self, name, value)

    def delete(self) -> None:
        """Delete the stored state when the transaction that holds it commits; pages get the defaults.

        Raises:
            ReadOnlyStateError: this copy is not part of a transaction.
        """
        bond = bond_of(self)
        if bond is None or bond.read_only or bond.key is None:
            raise ReadOnlyStateError(
                f"{type(self).__name__}.delete() works inside a transaction or event; elsewhere use "
                f"`await faststate.delete({type(self).__name__}, ...)`"
            )
        bond.deleted = True

    def __repr_args__(self) -> Any:
        private = self.__faststate_private__
        return [(k, "…" if k in private else v) for k, v in super().__repr_args__()]

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]  # pydantic's own yields pairs as well
        """Yield names and values, as ``dict(state)`` takes them, without those that never leave the server."""
        fields = type(self).model_fields
        return ((k, v) for k, v in super().__iter__() if k not in fields or not fields[k].exclude)

    # -- signals and actions -------------------------------------------------------------------------------------

    @property
    def signal_path(self) -> tuple[str, ...]:
        """Where this state's signals are nested in the page; empty for flat ones."""
        bond = bond_of(self)
        if bond is None or bond.key is None:
            return self.__faststate_path__
        return signal_path(bond.namespace, bond.key)

    def signals(self) -> dict[str, Json]:
        """Return the public fields and computed fields in the JSON form in which pages hold them.

        Raises:
            InvalidStateError: a value that no page can hold, such as NaN.
        """
        codec = self.__faststate_codec__()
        result: dict[str, Json] = nest(self.signal_path, codec.wire_values(self, codec.signals))
        return result

    @property
    def actions(self) -> Actions:
        """Action builders for this very instance: its record or component id is in their URLs."""
        return Actions(self)

    @classmethod
    def setter(cls, field: str) -> Action:
        """Return the action that sends the page's signal of a ``Bound`` field to ``set_<field>``.

        Raises:
            ConfigurationError: the field is not ``Bound``.
        """
        cls.__faststate_complete__()
        if field not in cls.__faststate_bound__:
            raise ConfigurationError(f"{cls.__name__}.{field} is not Bound, so the browser may not set it")
        return cls.__faststate_builder__(f"set_{field}")()

    @classmethod
    def __faststate_builder__(cls, name: str, instance: ReactiveState | None = None) -> ActionBuilder[...]:
        """Return the action builder of one event."""
        names = frozenset(cls.__faststate_codec__().signals)
        spec = cls.__faststate_events__.get(name)
        if spec is None:
            raise AttributeError(f"{cls.__name__} has no event {name!r}; it has {', '.join(cls.__faststate_events__)}")
        key = None if instance is None else instance.key
        own_id = None if key is None else key.own_id
        ids = {} if own_id is None else {cls.__faststate_id_parameter__: own_id}
        path = (instance.signal_path if instance is not None else None) or cls.__faststate_path__
        return ActionBuilder(spec, ids, lambda name: "$" + ".".join((*path, name) if name in names else (name,)))

    @classmethod
    def __faststate_codec__(cls) -> Codec:
        """Return the JSON forms of this class, made on first use."""
        codec: Codec | None = cls.__dict__.get("__faststate_codec_cache__")
        if codec is None:
            cls.__faststate_complete__()
            codec = Codec(cls, cls.__faststate_private__)
            cls.__faststate_codec_cache__ = codec
        return codec

    # -- in pages ------------------------------------------------------------------------------------------------

    def __ft__(self) -> Any:
        """Return ``Live(self)`` for FastHTML."""
        return live.Live(self).__ft__()

    def __html__(self) -> str:
        """Return ``Live(self)`` as markup."""
        return live.Live(self).__html__()

    def __response__(self, _: Any) -> Any:
        """Return what a FastHTML route shows that returns this state alone: it would take it for a list of pairs."""
        return self.__ft__()

    @classmethod
    async def aget(cls, request: Any, *, record_id: Any = None, component_id: Any = None) -> Self:
        """Return the read-only copy that belongs to a request, in ``async`` handlers of any framework.

        Args:
            request: anything with an ASGI ``scope``, or the scope itself.
            record_id: instead of the one in the path or query.
            component_id: instead of the one in the query.
        """
        state: Self = await _context_of(request).get_for(request, cls, record_id=record_id, component_id=component_id)
        return state

    @classmethod
    def get(cls, request: Any, *, record_id: Any = None, component_id: Any = None) -> Self:
        """Return what ``aget`` returns, from ``def`` handlers in worker threads."""
        state: Self = _context_of(request).get_from_thread(request, cls, record_id=record_id, component_id=component_id)
        return state

    @classmethod
    async def __from_request__(cls, req: HTTPConnection) -> Self:  # FastHTML's protocol for annotated parameters
        state: Self = await _context_of(req).get_injected(req, cls)
        return state


ReactiveState.__from_request__.__func__.__annotations__ = {"req": HTTPConnection}  # type: ignore[attr-defined]  # FastHTML reads real types

_BASE_NAMES = frozenset(name for name in dir(ReactiveState) if not name.startswith("__")) | {"signal", "signals", "id"}


def _context_of(request: Any) -> Any:
    """Return the request's context, or say that the middleware is missing."""
    scope = cast("Scope | None", request if isinstance(request, dict) else getattr(request, "scope", None))
    context = scope.get("faststate") if isinstance(scope, dict) else None
    if context is None:
        raise ConfigurationError(
            'scope["faststate"] is missing: wrap the app (app = FastStateMiddleware(app, ...)) and pass the request'
        )
    return context


def _collect(cls: type[ReactiveState]) -> None:
    """Find the events and fragments of a class along its bases; what overrides one is one only if decorated."""
    events: dict[str, EventSpec] = {}
    fragments: dict[str, Fragment] = {}
    seen: set[str] = set()
    for base in cls.__mro__:
        for name, value in vars(base).items():
            if name in seen:
                continue
            seen.add(name)
            if isinstance(value, Event):
                if name.startswith("_"):
                    raise ConfigurationError(
                        f"{cls.__name__}.{name} begins with an underscore, so it cannot be an event; rename it"
                    )
                value.name = name
                events[name] = value.spec_for(cls)
            elif isinstance(value, Fragment):
                fragments[name] = value
            elif isinstance(getattr(value, "__func__", None), (Event, Fragment)):
                raise ConfigurationError(
                    f"{cls.__name__}.{name}: an event or fragment is a method of an instance; leave out "
                    f"@{type(value).__name__}"
                )
    for name, item in fragments.items():
        missing = item.fields - cls.model_fields.keys() - cls.model_computed_fields.keys()
        if missing:
            raise ConfigurationError(
                f"{cls.__name__}.{name}: @fragment(on=...) names {sorted(missing)}, which are no fields"
            )
    cls.__faststate_events__ = events
    cls.__faststate_fragments__ = fragments
