"""Signals: those of a request, and where those of a state are in a page, as paths and as expressions.

Their values are made in ``codec.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .actions import Expression
from .patches import POISON_KEYS

if TYPE_CHECKING:
    from .keys import StateKey
    from .state import ReactiveState

_WORD = re.compile(r"[^A-Za-z0-9_]|_(?=[0-9a-f]{2})")


class Signals(dict[str, Any]):
    """All signals that a request carries; as an event's parameter it is filled with them."""


class SignalPaths:
    """Expressions of a state's signals by field: ``CounterState.signal.count`` is ``$count``."""

    __slots__ = ("_names", "_path", "_state")

    def __init__(self, state: str, names: tuple[str, ...], path: tuple[str, ...] | None) -> None:
        self._state, self._names, self._path = state, names, path

    def __getattr__(self, name: str) -> Expression:
        if name not in self._names:
            raise AttributeError(f"{self._state} has no signal {name!r}; it has {', '.join(self._names) or 'none'}")
        if self._path is None:
            raise AttributeError(f"{self._state} has a signal for each record or component; use instance.signal.{name}")
        return Expression("$" + ".".join((*self._path, name)))


class SignalAccess:
    """``signal`` on class and instance."""

    def __get__(self, instance: ReactiveState | None, owner: type[ReactiveState]) -> SignalPaths:
        codec = owner.__faststate_codec__()
        if instance is not None:
            return SignalPaths(owner.__name__, codec.signals, instance.signal_path)
        path = owner.__faststate_path__
        return SignalPaths(owner.__name__, codec.signals, None if owner.__faststate_needs_id__ and path else path)


def signal_path(namespace: str | None, key: StateKey) -> tuple[str, ...]:
    """Return where a state's signals are nested in pages."""
    if namespace is None:
        return ()
    return (namespace,) if key.own_id is None else (namespace, _signal_name(key.own_id))


def _signal_name(own_id: str) -> str:
    """Return a record or component id as a name that can stand in a Datastar path; no two ids share one."""
    name = _WORD.sub(lambda match: "".join(f"_{byte:02x}" for byte in match[0].encode()), own_id)
    return f"_{ord(name[0]):02x}{name[1:]}" if name in POISON_KEYS else name
