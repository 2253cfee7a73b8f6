"""Who waits for which key: one fair queue for each in the process, bounded in number and time."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from .errors import OverloadedError
from .keys import StateKey

SERVED_TO_TELL = 32
LATE_S = 30.0


class Waits(Protocol):
    """A call that waits in a line; whoever serves the line takes it out."""

    @property
    def is_claimed(self) -> bool:
        """Whether it has been answered meanwhile, so that it needs no turn any more."""
        ...


class Line(deque["asyncio.Future[None] | Waits"]):
    """Those who wait for one key, and how fast they are served; lives as long as anybody waits or works there."""

    __slots__ = ("_began_at", "_served")

    def __init__(self) -> None:
        super().__init__()
        self._began_at, self._served = time.monotonic(), 0

    def serve(self) -> asyncio.Future[None] | Waits:
        """Take out the first one."""
        self._served += 1
        if self._served >= 2 * SERVED_TO_TELL:
            # What was long ago counts half: a line tells of now.
            self._served //= 2
            self._began_at += (time.monotonic() - self._began_at) / 2
        return self.popleft()

    def wait_s(self) -> float:
        """Return how long somebody who comes now will wait, as far as those before tell; 0 where too few have been served."""
        if self._served < SERVED_TO_TELL:
            return 0.0
        return len(self) * (time.monotonic() - self._began_at) / self._served


class Mailboxes:
    """One queue for each key whose turn is taken: None as long as nobody waits.

    Those who wait for a turn of their own wait on a future; calls, which may share one, wait as themselves.

    Args:
        max_waiting: how many may wait for one key.
    """

    def __init__(self, max_waiting: int) -> None:
        self.boxes: dict[StateKey, Line | None] = {}
        """Who waits for each key whose turn is taken; who takes and leaves one in the same step looks in here itself."""
        self._max_waiting = max_waiting
        self.refused_at = -math.inf
        """When somebody was last refused because others wait, by the monotonic clock."""
        self.serve: Callable[[StateKey], None] | None = None
        """Takes over a key's turn when a call is the next in its line."""

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def waiting(self) -> int:
        """How many wait, over all keys."""
        return sum(len(waiting) for waiting in self.boxes.values() if waiting)

    def waiting_for(self, key: StateKey) -> int:
        """How many wait for one key."""
        return len(self.boxes[key] or ())

    def has_refused(self, within_s: float) -> bool:
        """Whether somebody was refused in the last so many seconds because others wait."""
        return time.monotonic() - self.refused_at <= within_s

    def try_enter(self, key: StateKey) -> bool:
        """Take the key's turn if it is free."""
        if key in self.boxes:
            return False
        self.boxes[key] = None
        return True

    def _line(self, key: StateKey) -> Line:
        """Return the queue of a key whose turn is taken.

        Raises:
            OverloadedError: too many wait already, or it would take too long.
        """
        waiting = self.boxes[key]
        if waiting is None:
            waiting = self.boxes[key] = Line()
        late_s = waiting.wait_s() if waiting else 0.0
        if late_s > LATE_S:
            self.refused_at = time.monotonic()
            retry_s = str(min(60, math.ceil(late_s)))
            raise OverloadedError("Too busy to come to this in time", headers={"Retry-After": retry_s})
        if len(waiting) >= self._max_waiting:
            self.refused_at = time.monotonic()
            raise OverloadedError("Too many requests are waiting; please try again", headers={"Retry-After": "1"})
        return waiting

    def line_up(self, key: StateKey, call: Waits) -> None:
        """Put a call behind those who wait for a turn that is taken; ``OverloadedError`` if these are too many."""
        self._line(key).append(call)

    def take_calls(self, key: StateKey, limit: int) -> list[Any]:
        """Return the calls at the head of a key's line, at most ``limit`` that nobody has answered yet."""
        waiting, taken = self.boxes[key], list[Any]()
        while waiting and len(taken) < limit and not isinstance(waiting[0], asyncio.Future):
            call = waiting.serve()
            if not call.is_claimed:  # type: ignore[union-attr]  # futures were told apart above
                taken.append(call)
        return taken

    async def enter(self, key: StateKey, wait_s: float) -> None:
        """Wait for the key's turn, first come first served.

        Raises:
            OverloadedError: too many wait already, or it took longer than ``wait_s``. Nothing has run then.
        """
        if self.try_enter(key):
            return
        waiting = self._line(key)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        timer = asyncio.get_running_loop().call_later(wait_s, _give_up, turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have been handed over in the same moment: pass it on.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(key)
            raise
        finally:
            timer.cancel()
            if turn in waiting:
                waiting.remove(turn)

    def leave(self, key: StateKey) -> None:
        """Hand the turn to the next one who still waits."""
        waiting = self.boxes[key]
        while waiting:
            head = waiting[0]
            if isinstance(head, asyncio.Future):
                waiting.serve()
                if not head.done():
                    head.set_result(None)
                    return
            elif head.is_claimed:
                waiting.popleft()
            else:
                assert self.serve is not None, "calls wait only where somebody serves them"
                self.serve(key)
                return
        del self.boxes[key]


def _give_up(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(busy())


def busy() -> OverloadedError:
    """Return the refusal of one who waited too long."""
    return OverloadedError("Busy; please try again", headers={"Retry-After": "1"})
