"""Calls that wait or run in this process: who waits for their answers, until when, and what ends with the process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any

from .calls import Call, first_of, log_event, logger, stopping, timed_out
from .eager import Suspended
from .mailboxes import busy
from .stores.base import Answer
from .updates import Update
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
    def digest(self) -> bytes:
        """The digest of its request."""
        return self.call.digest

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


class RunningCalls:
    """All calls that wait or run, and the tasks of this process that end with them; lives as long as the runtime."""

    def __init__(self) -> None:
        self.by_name: dict[str, Running] = {}
        """Which call a repetition of its request waits for."""
        self.deadlines = Deadlines(self._expired)
        self.events_run = 0
        self._calls: set[Running] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._calls) + len(self._tasks)

    def add(self, call: Call) -> Running:
        """Return a call that others of the same request can wait for."""
        running = Running(call, asyncio.get_running_loop().create_future())
        self._calls.add(running)
        for name in call.names:
            self.by_name[name] = running
        return running

    def first(self, call: Call) -> Running | None:
        """Return the call of the same request that runs already.

        Raises:
            ArgumentError: another request under the same idempotency key.
        """
        return first_of(call, self.by_name)

    def is_running(self, call: Call) -> bool:
        """Whether a request of the same click runs here."""
        return any(name in self.by_name for name in call.names)

    def event_of(self, task: asyncio.Task[Any]) -> str | None:
        """Return which event a task runs, None if it runs none; may be asked from another thread."""
        return next((running.call.spec.path for running in list(self._calls) if running.task is task), None)

    # -- their ends --------------------------------------------------------------------------------------------------

    def forget(self, running: Running) -> None:
        """Let later repetitions find the answer in the store."""
        self.deadlines.drop(running)
        self._calls.discard(running)
        for name in running.call.names:
            if self.by_name.get(name) is running:
                del self.by_name[name]

    def settle(self, running: Running, answer: Answer) -> None:
        """Give the answer to everybody who waits, once."""
        self.forget(running)
        claim = running.call.claim
        if claim is not None and claim.is_held:
            self.own(claim.give_back())
        for waiter in running.waiters:
            if not waiter.done():
                waiter.set_result(answer)

    def committed(self, call: Call, updates: Sequence[Update], started_at: float) -> None:
        """Count and log an event whose changes are stored."""
        self.events_run += 1
        if updates:
            call.committed(updates)
        if logger.isEnabledFor(logging.INFO):
            log_event(call, updates, time.monotonic() - started_at)

    def _expired(self, running: Running) -> None:
        """End the waiting of a call that did not begin in time, or settle one that has run too long."""
        call = running.call
        if not running.has_begun:
            if running.begin() and running.claim():
                if running.settle is not None:
                    running.settle(busy())
                else:
                    self.settle(running, call.failed(busy()))
            return
        if running.settle is not None:
            if running.claim():
                running.settle(timed_out(call))
        elif running.outcome is not None and not running.outcome.done():
            running.outcome.set_exception(timed_out(call))
        else:
            return  # its thread is watched by the one who serves its line
        # The turn passes on; what the handler still does is ignored.
        if running.task is not None:
            running.task.cancel()

    # -- tasks -------------------------------------------------------------------------------------------------------

    def own(self, coroutine: Coroutine[Any, Any, None], name: str | None = None) -> asyncio.Task[None]:
        """Run a coroutine in a task that nobody else can cancel."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.adopt(task)
        return task

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Keep a task until it ends; the end of the process ends it too."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- the end of the process --------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Wait until all have ended, at most ``timeout_s``, and give up the others."""
        deadline = time.monotonic() + timeout_s
        while (waited := self._unfinished()) and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.wait(waited, timeout=left_s)
        self.give_up()

    def give_up(self) -> None:
        """Answer 503 for every call that still runs, and cancel what can be cancelled."""
        tasks = self._all_tasks()
        for running in list(self._calls):
            running.begin()
            running.claim()
            self.settle(running, running.call.failed(stopping()))
        for task in tasks:
            task.cancel()

    def _all_tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks of calls and everything else that runs."""
        return [*self._tasks, *(running.task for running in self._calls if running.task is not None)]

    def _unfinished(self) -> list[asyncio.Future[Any]]:
        """Return what has to end before the process may."""
        return [*self._all_tasks(), *(waiter for running in self._calls for waiter in running.waiters)]

    async def aclose(self) -> None:
        """Cancel what still runs, and wait a moment for it; handlers in threads keep their thread until they return."""
        self.deadlines.clear()
        tasks = self._all_tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
