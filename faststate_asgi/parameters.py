"""Which parameters events and routes can have, and which are injected and from where: these no request's data fills.

Types are recognised by their names, so that a database driver or a later layer need not be imported for it.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from pydantic.fields import FieldInfo
from starlette.requests import HTTPConnection

from .errors import ConfigurationError

T = TypeVar("T")


class Marker:
    """Marks an annotation."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


WRITABLE = Marker("Writable")

Writable = Annotated[T, WRITABLE]
"""Another state as an event's parameter that joins the event's transaction; ``Writable[State] | None`` where it may."""


class Source(Enum):
    """Where an injected parameter comes from."""

    REQUEST = "request"
    IDENTITY = "identity"
    CONTEXT = "context"
    SIGNALS = "signals"
    KEY = "key"
    AUTH = "auth"
    SESSION = "session"
    DATABASE = "database session"
    ASYNC_DATABASE = "async database session"
    STATE = "state"
    WRITABLE = "writable state"


_BY_NAME = {
    "req": Source.REQUEST,
    "request": Source.REQUEST,
    "auth": Source.AUTH,
    "sess": Source.SESSION,
    "session": Source.SESSION,
}
_BY_TYPE = {
    "faststate_asgi.Identity": Source.IDENTITY,
    "faststate_asgi.RequestContext": Source.CONTEXT,
    "faststate_asgi.Signals": Source.SIGNALS,
    "faststate_asgi.StateKey": Source.KEY,
    "sqlalchemy.AsyncSession": Source.ASYNC_DATABASE,
    "sqlalchemy.Session": Source.DATABASE,
}


@dataclass(frozen=True, slots=True)
class Injected:
    """One parameter that never comes from the request's data."""

    name: str
    source: Source
    state: type[Any] | None = None
    is_optional: bool = False


def injection(name: str, annotation: Any) -> Injected | None:
    """Return how a parameter is injected, None if it comes from the request's data."""
    state = state_in(annotation)
    if state is not None:
        source = Source.WRITABLE if _is_writable(annotation) else Source.STATE
        return Injected(name, source, state, is_optional(annotation))
    source_of_type = _by_type(bare(annotation))
    if source_of_type is not None:
        return Injected(name, source_of_type)
    return Injected(name, _BY_NAME[name]) if name in _BY_NAME else None


def _is_writable(annotation: Any) -> bool:
    """Whether ``Writable`` is anywhere around a state class, also as one side of ``Writable[State] | None``."""
    return WRITABLE in getattr(annotation, "__metadata__", ()) or any(
        _is_writable(inner) for inner in typing.get_args(annotation)
    )


def bare(annotation: Any) -> Any:
    """Return ``T`` of ``Optional[T]``, ``T | None`` and ``Annotated[T, ...]``, however nested."""
    if typing.get_origin(annotation) is typing.Annotated:
        return bare(typing.get_args(annotation)[0])
    inner = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and len(inner) == 1:
        return bare(inner[0])
    return annotation


def _by_type(annotation: Any) -> Source | None:
    """Return the source that a parameter's type implies."""
    if not isinstance(annotation, type) or typing.get_origin(annotation) is not None:
        return None
    if issubclass(annotation, HTTPConnection):
        return Source.REQUEST
    names = {f"{base.__module__.split('.')[0]}.{base.__name__}" for base in annotation.__mro__}
    return next((source for name, source in _BY_TYPE.items() if name in names), None)


def state_in(annotation: Any) -> type[Any] | None:
    """Return the state class in ``State``, ``Annotated[State, ...]``, ``Optional[State]`` or ``State | None``."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return state_in(typing.get_args(annotation)[0])
    if origin is typing.Union or origin is types.UnionType:
        inner = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return state_in(inner[0]) if len(inner) == 1 else None
    if isinstance(annotation, type) and origin is None and hasattr(annotation, "__faststate_events__"):
        return annotation
    return None


def is_optional(annotation: Any) -> bool:
    """Tell whether ``None`` satisfies an annotation."""
    if typing.get_origin(annotation) is typing.Annotated:
        return is_optional(typing.get_args(annotation)[0])
    return annotation is None or annotation is Any or type(None) in typing.get_args(annotation)


def check_signature(func: Callable[..., Any]) -> None:
    """Refuse parameters that no call fills as they say."""
    where, parameters = func.__qualname__, list(inspect.signature(func).parameters.values())
    if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise ConfigurationError(
            f"{where}() has no self: an event is a method of a state; write def {func.__name__}(self)"
        )
    for parameter in parameters[1:]:
        name = parameter.name
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigurationError(
                f"{where}: {name} is positional-only, but arguments come by name; leave out the '/'"
            )
        if isinstance(parameter.default, FieldInfo):
            raise ConfigurationError(
                f"{where}: the default of {name} is a Field, which the method would get; write "
                f"{name}: Annotated[..., Field(...)] = value"
            )


def refuse_aliases(where: str, hints: Mapping[str, Any]) -> None:
    """Refuse parameters that are to come under another name."""
    for name, hint in hints.items():
        for item in getattr(hint, "__metadata__", ()):
            if isinstance(item, FieldInfo) and (item.alias or item.validation_alias):
                raise ConfigurationError(
                    f"{where}: {name} has an alias, but arguments come by the names of their parameters; rename it instead"
                )


@lru_cache(maxsize=4096)
def states_of(endpoint: Any) -> tuple[type[Any], ...]:
    """Return the state classes that a route asks for in its signature, as far as that can be seen."""
    if not isinstance(endpoint, types.FunctionType):
        return ()
    signatures = kept_signatures(endpoint)
    with suppress(NameError, TypeError, ValueError):
        signatures.append(inspect.signature(inspect.unwrap(endpoint), eval_str=True))
    found = (state_in(one.annotation) for signature in signatures for one in signature.parameters.values())
    return tuple(dict.fromkeys(cls for cls in found if cls is not None))


def kept_signatures(endpoint: Any) -> list[inspect.Signature]:
    """Return the signatures by which FastHTML fills a handler: it keeps them in the function that it registers."""
    cells: Any = getattr(endpoint, "__closure__", None)
    return [cell.cell_contents for cell in cells or () if _is_signature(cell)]


def _is_signature(cell: types.CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, inspect.Signature)
    except ValueError:  # the cell is empty
        return False
