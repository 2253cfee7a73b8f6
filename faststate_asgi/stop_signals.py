"""``StopSignals``: hears SIGTERM and SIGINT before the server acts on them. What is done then is ``engine.py``'s."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopSignals:
    """Stands before the handlers that a server has set, from ``chain`` to ``restore``.

    A server waits for its open responses before it sends the lifespan's shutdown, so streams must end earlier.
    Only the main thread can do this; elsewhere streams end by their age.

    Args:
        on_stop: is called in the signal handler, before the server's own.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._previous: dict[int, Any] = {}

    @property
    def is_in_server(self) -> bool:
        """Whether SIGTERM is heard, as in a server's process."""
        return signal.SIGTERM in self._previous

    def chain(self) -> None:
        """Put our handler before those that are set; called again, it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)
            if callable(previous) and number not in self._previous:
                self._previous[number] = previous
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._on_stop()
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)

    def restore(self) -> None:
        """Put the previous handlers back where ours are still in place; elsewhere ours go on calling them."""
        if threading.current_thread() is threading.main_thread():
            for number, previous in list(self._previous.items()):
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, previous)
                    del self._previous[number]
