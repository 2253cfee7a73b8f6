"""Fields of a state class: ``Bound`` and ``Private``, the names they may have, and setters.

How values are stored and sent is said in ``codec.py``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field
from pydantic.fields import FieldInfo

from .errors import ConfigurationError
from .events import Event, EventOptions
from .parameters import Marker
from .patches import POISON_KEYS
from .schemas import Annotations

if TYPE_CHECKING:
    from .state import ReactiveState

T = TypeVar("T")
_SIGNAL_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)

BOUND = Marker("Bound")
PRIVATE = Marker("Private")

Bound = Annotated[T, BOUND]
"""A field that the browser may set, by the event ``set_<field>``."""

Private = Annotated[T, Field(exclude=True), PRIVATE]
"""A field that never leaves the server."""


def is_private(name: str, info: FieldInfo) -> bool:
    """Whether a field stays on the server."""
    return bool(info.exclude) or PRIVATE in info.metadata or name.startswith("_") or name == "id"


def refuse_names(cls: type[ReactiveState], taken: frozenset[str]) -> None:
    """Refuse fields whose names the base class uses, or which a page cannot use."""
    for name in cls.model_fields:
        if name in POISON_KEYS:
            raise ConfigurationError(
                f"{cls.__name__}.{name}: {name!r} breaks every page that receives it; rename the field"
            )
        if name in taken and not (name == "id" and cls.__faststate_is_table__):
            raise ConfigurationError(f"{cls.__name__}.{name}: {name!r} is used by ReactiveState; rename the field")
    for name in (*cls.model_fields, *cls.model_computed_fields):
        if not _SIGNAL_NAME.fullmatch(name):
            raise ConfigurationError(
                f"{cls.__name__}.{name}: a signal's name has only the letters A to Z, a to z, digits and underscores, "
                "else Datastar does not find it in expressions; rename the field"
            )


def refuse_inner_markers(cls: type[ReactiveState]) -> None:
    """Refuse ``Private`` and ``Bound`` around a part of a field only, where they mean nothing."""
    for name, info in cls.model_fields.items():
        inner = Annotations(info.annotation).inner
        for marker in (PRIVATE, BOUND):
            if marker in inner:
                raise ConfigurationError(
                    f"{cls.__name__}.{name}: {marker} must stand around the whole annotation; write "
                    f"{marker}[str | None] for {marker}[str] | None, and {marker}[list[str]] for list[{marker}[str]]"
                )


def exclude_private(cls: type[ReactiveState]) -> None:
    """Keep ``Private`` fields out of every dump, also where SQLModel's ``Field`` says that nothing is excluded."""
    shown = [info for info in cls.model_fields.values() if PRIVATE in info.metadata and not info.exclude]
    for info in shown:
        info.exclude = True
    if shown and cls.__pydantic_complete__:
        cls.model_rebuild(force=True)


def add_setters(cls: type[ReactiveState]) -> None:
    """Give each ``Bound`` field its event ``set_<field>``, unless the class has its own."""
    for name in sorted(cls.__faststate_bound__):
        setter = f"set_{name}"
        existing = inspect.getattr_static(cls, setter, None)
        if existing is None or getattr(existing, "bound_field", None) == name:
            made: Event[..., None] = Event(
                _setter_function(setter, name), EventOptions(inline=True), _setter_hints(cls, name)
            )
            made.bound_field = name
            type.__setattr__(cls, setter, made)


def _setter_function(setter: str, name: str) -> Callable[..., None]:
    """Return the method that sets one field."""

    def method(self: ReactiveState, *args: Any, **kwargs: Any) -> None:
        setattr(self, name, signature.bind(self, *args, **kwargs).arguments[name])

    parameter = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), parameter])
    method.__name__ = method.__qualname__ = setter
    method.__doc__ = f"Set ``{name}`` to what the browser sent."
    method.__signature__ = signature  # type: ignore[attr-defined]  # read by inspect.signature
    return method


def _setter_hints(cls: type[ReactiveState], name: str) -> dict[str, Any]:
    """Return the annotation of a setter's parameter, with the field's constraints."""
    info = cls.model_fields[name]
    return {name: Annotated[info.annotation, *info.metadata]} if info.metadata else {name: info.annotation}
