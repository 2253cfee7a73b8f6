"""One call that waits or runs: whether it has begun, who waits for its answer, and until when it may run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from .calls import Call
from .eager import Suspended
from .stores.base import Answer
from .workers import as_exception


class Running:
    """A call that waits or runs: repetitions of its request wait here for its answer.

    It holds the two tokens that handler and clock compete for, from any thread: who begins it (or gives it up before),
    and who settles its outcome.
    """

    __slots__ = (
        "_outcome_token",
        "_start_token",
        "call",
        "context",
        "outcome",
        "settle",
        "started_at",
        "task",
        "waiters",
    )

    def __init__(self, call: Call, waiter: asyncio.Future[Answer]) -> None:
        self.call = call
        self.waiters = [waiter]
        self._start_token = [None]
        self._outcome_token = [None]
        self.context = copy_context()
        self.task: asyncio.Task[Any] | None = None
        self.outcome: asyncio.Future[Any] | None = None
        self.settle: Callable[[Any], None] | None = None
        self.started_at = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether its handler runs or has run."""
        return not self._start_token

    @property
    def is_claimed(self) -> bool:
        """Whether its outcome is known."""
        return not self._outcome_token

    def begin(self) -> bool:
        """Take the right to run it; false if that is gone."""
        self.started_at = time.monotonic()
        return _take(self._start_token)

    def claim(self) -> bool:
        """Take the right to settle it; false if that is gone."""
        return _take(self._outcome_token)

    def left_s(self) -> float:
        """Return how long its handler may still run."""
        return self.started_at + self.call.spec.options.timeout_s - time.monotonic()

    def wait(self) -> asyncio.Future[Answer]:
        """Return a future of its answer."""
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        return waiter

    def go_on(self, suspended: Suspended) -> asyncio.Future[Any]:
        """Let a handler go on in a task of its own, and return the future of what it returns."""
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def rest() -> None:
            try:
                result = await suspended
            except BaseException as exc:
                if not outcome.done():
                    outcome.set_exception(_storable(exc))
            else:
                if not outcome.done():
                    outcome.set_result(result)

        self.task = suspended.task
        suspended.go_on(rest())
        return outcome


def _take(token: list[None]) -> bool:
    """Take what only one may have; atomic, which a test and an assignment would not be."""
    try:
        token.pop()
    except IndexError:
        return False
    return True


def _storable(exc: BaseException) -> BaseException:
    """Return an exception that a future takes, and that does not close who waits for it."""
    return as_exception(exc) if isinstance(exc, (StopIteration, GeneratorExit)) else exc


class Deadlines:
    """One timer for all calls that may take equally long, instead of one for each; belongs to one event loop.

    Timers have an empty context: they outlive the requests that set them.

    Args:
        expired: is called with each item whose time is over.
    """

    def __init__(self, expired: Callable[[Running], None]) -> None:
        self._expired = expired
        self._lines: dict[float, dict[Running, float]] = {}
        self._timers: dict[float, asyncio.TimerHandle] = {}

    def add(self, item: Running) -> None:
        """Call ``expired`` when the item's time is over unless it is dropped before."""
        loop, delay_s = asyncio.get_running_loop(), item.call.spec.options.timeout_s
        ends_at = loop.time() + delay_s
        line = self._lines.get(delay_s)
        if line is None:
            line = self._lines[delay_s] = {}
            self._timers[delay_s] = loop.call_at(ends_at, self._fire, delay_s, context=Context())
        else:
            line.pop(item, None)  # what is added again goes to the end
        line[item] = ends_at

    def drop(self, item: Running) -> None:
        """Forget an item; unknown ones are ignored."""
        line = self._lines.get(item.call.spec.options.timeout_s)
        if line is not None:
            line.pop(item, None)

    def _fire(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        line, now = self._lines[delay_s], loop.time() + 0.001
        over: list[Running] = []
        for item, ends_at in line.items():
            if ends_at > now:
                break
            over.append(item)
        for item in over:
            del line[item]
        if line:
            self._timers[delay_s] = loop.call_at(next(iter(line.values())), self._fire, delay_s, context=Context())
        else:
            del self._lines[delay_s], self._timers[delay_s]
        for item in over:
            self._expired(item)

    def clear(self) -> None:
        """Forget everything."""
        for timer in self._timers.values():
            timer.cancel()
        self._lines.clear()
        self._timers.clear()
