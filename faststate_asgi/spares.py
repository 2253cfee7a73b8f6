"""States that were made of snapshots and met no handler: the next turn on their keys need not make them again."""

from __future__ import annotations

from threading import Lock

from .keys import StateKey
from .state import ReactiveState

MIN_BYTES = 4096
"""What is smaller is made again as fast as it is looked up."""
MAX_BYTES = 2 << 20
"""Of JSON; the objects take about ten times as much."""


class Spares:
    """At most one state for a key, the newest ones; each is given out once, in any thread."""

    def __init__(self) -> None:
        self.kept: dict[StateKey, tuple[bytes, ReactiveState]] = {}
        self._size_bytes = 0
        self._lock = Lock()

    def keep(self, key: StateKey, data: bytes, state: ReactiveState) -> None:
        """Take a state that is equal to a snapshot, and that nobody else holds."""
        if not MIN_BYTES <= len(data) <= MAX_BYTES:
            return
        with self._lock:
            self._drop(key)
            self.kept[key] = (data, state)
            self._size_bytes += len(data)
            while self._size_bytes > MAX_BYTES:
                self._drop(next(iter(self.kept)))

    def take(self, key: StateKey, data: bytes) -> ReactiveState | None:
        """Give the state of exactly this snapshot away, None if there is none."""
        if key not in self.kept:
            return None
        with self._lock:
            spare = self._drop(key)
        return spare[1] if spare is not None and spare[0] == data else None

    def _drop(self, key: StateKey) -> tuple[bytes, ReactiveState] | None:
        spare = self.kept.pop(key, None)
        if spare is not None:
            self._size_bytes -= len(spare[0])
        return spare
