"""FastAPI: ``Annotated[CounterState, Inject()]``.

``Inject()`` is a dependency without a function; FastAPI asks it for one once it knows the annotated type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError

if TYPE_CHECKING:

    class Inject:
        """Marks a FastAPI parameter annotated with a state class as injected."""

else:

    def Inject() -> Any:  # noqa: N802 - stands in annotations like a class
        """Return FastAPI's marker for a parameter annotated with a state class."""
        try:
            from ._fastapi_depends import StateDepends
        except ImportError as exc:
            raise MissingDependencyError("Inject() needs FastAPI: pip install fastapi") from exc
        return StateDepends()
