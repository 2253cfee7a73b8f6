"""The FastAPI dependency behind ``Inject()``; imports FastAPI, so it is itself imported on use only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.params import Depends

from ..errors import ConfigurationError, shorten
from ..parameters import is_optional, state_in


@dataclass(frozen=True)
class StateDepends(Depends):
    """A dependency that learns its state class from the annotation that it stands in."""

    def __post_init__(self) -> None:
        parent: Callable[[], None] | None = getattr(super(), "__post_init__", None)
        if parent is not None:
            parent()
        if self.dependency is not None and not hasattr(self.dependency, "__faststate_loader__"):
            object.__setattr__(self, "dependency", _loader(self.dependency))


def _loader(annotation: Any) -> Callable[[Request], Awaitable[Any]]:
    """Return the function that FastAPI calls for a parameter.

    Raises:
        ConfigurationError: the annotated type is no state class.
    """
    cls = state_in(annotation)
    if cls is None:
        raise ConfigurationError(f"Inject() goes with a state class, not with {shorten(annotation)}")

    async def load(request: Request) -> Any:
        if is_optional(annotation):
            return await request.scope["faststate"].get_or_none(cls)
        return await request.scope["faststate"].get_injected(request, cls)

    load.__annotations__ = {"request": Request}
    load.__faststate_loader__ = True  # type: ignore[attr-defined]  # tells a copied dependency from an annotation
    return load
