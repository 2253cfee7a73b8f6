"""Notices when the event loop stands still, and says in the log which event holds it up.

An ``async def`` or inline handler that computes, or calls something that blocks, stops every other request of the
process. Nothing can interrupt it; what can be done is to name it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("faststate")

BEAT_S = 0.25
BLOCKED_S = 1.0
_SHOWN_FRAMES = 6


class Watchdog:
    """A thread that watches one event loop from ``start`` to ``stop``, or until the loop is closed.

    Args:
        loop: the loop; ``start`` is called on it.
        event_of: which event a task runs, None if it runs none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, event_of: Callable[[asyncio.Task[Any] | None], str | None]):
        self._loop, self._event_of = loop, event_of
        self._thread_id = 0
        self._beat_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        self._thread_id = threading.get_ident()
        self._beat()
        threading.Thread(target=self._watch, name="faststate-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; idempotent."""
        self._is_stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _watch(self) -> None:
        reported_at = 0.0
        while not self._is_stopped.wait(BEAT_S) and not self._loop.is_closed():
            beat_at = self._beat_at
            late_s = time.monotonic() - beat_at
            if late_s > BLOCKED_S and reported_at != beat_at:
                reported_at = beat_at
                self._report(late_s)

    def _report(self, late_s: float) -> None:
        """Log who holds the loop up, and where in the code; no values, which may be secret."""
        try:
            event = self._event_of(asyncio.current_task(self._loop))
        except RuntimeError:  # the loop went on meanwhile
            return
        frame = sys._current_frames().get(self._thread_id)  # pyright: ignore[reportPrivateUsage]  # documented
        stack = "".join(traceback.format_stack(frame)[-_SHOWN_FRAMES:]) if frame is not None else ""
        logger.warning(
            "the event loop has stood still for %.1f s in %s; use a def event (it runs in a thread) for what blocks\n%s",
            late_s,
            "code of the app" if event is None else f"event {event}",
            stack,
            extra={"event": event},
        )
