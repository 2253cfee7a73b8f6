"""Starts a coroutine at once, and gives it a task of the engine only if it has to wait.

Most handlers never wait. A task for each would cost more than what they do, and running them in the request's own task
would let a client that leaves interrupt them. So the first step runs here and now, as if in a task of the engine that
stands by; if the coroutine has to wait, that task goes on with it. ``asyncio.timeout``, ``current_task`` and context
variables see one task and one context throughout.
"""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

from .steps import put_aside, resumed

# Documented for third-party tasks: docs.python.org/3/library/asyncio-extending.html
from asyncio.tasks import _enter_task, _leave_task  # isort: skip  # pyright: ignore[reportPrivateUsage]


class Suspended:
    """A coroutine that has begun and has to wait; awaited, it goes on to its end and gives its result.

    ``task`` is the task that it runs in from now on, once ``go_on`` was called.
    """

    __slots__ = ("_coroutine", "_standby", "_waiting", "context")

    def __init__(self, standby: _Standby, context: Context, coroutine: Coroutine[Any, Any, Any], waiting: Any) -> None:
        self._standby, self._coroutine, self._waiting = standby, coroutine, waiting
        self.context = context

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that owns the coroutine."""
        return self._standby.task

    def go_on(self, rest: Coroutine[Any, Any, None]) -> None:
        """Run ``rest``, which awaits this object and does what comes after, in the task and context of its own."""
        self._standby.give(self.context, rest)

    def __await__(self) -> Generator[Any, Any, Any]:
        rest: Any = resumed(self._coroutine, self._waiting)  # a generator, though it is typed as an awaitable
        return (yield from rest)  # pyright: ignore[reportUnknownVariableType]  # as above


class _Standby:
    """A task that waits for a coroutine to go on with; used once."""

    __slots__ = ("_work", "task", "wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wake: asyncio.Future[None] = loop.create_future()
        self._work: tuple[Context, Coroutine[Any, Any, None]] | None = None
        # An empty context: this one may stand by for long, and would keep what the request left in its own.
        self.task: asyncio.Task[None] = loop.create_task(self._run(), context=Context())

    def give(self, context: Context, rest: Coroutine[Any, Any, None]) -> None:
        self._work = (context, rest)
        self.task.add_done_callback(self._rescue)
        if not self.wake.done():
            self.wake.set_result(None)

    async def _run(self) -> None:
        error: BaseException | None = None
        try:
            await self.wake
        except asyncio.CancelledError as exc:
            if self._work is None:
                raise
            error = exc  # the handler's, cancelled between its first step and this one
        assert self._work is not None, "give() wakes"
        (context, rest), self._work = self._work, None
        await InContext(context, rest, error)

    def _rescue(self, task: asyncio.Task[None]) -> None:
        """Give the handler its cancellation in another task if this one was cancelled before its own first step."""
        if self._work is not None:
            (context, rest), self._work = self._work, None
            self.task = task.get_loop().create_task(_awaited(InContext(context, rest, asyncio.CancelledError())))


async def _awaited(driver: InContext) -> None:
    await driver


class InContext:
    """Awaited, drives a coroutine with every step in one context; ``error`` is thrown where it first waits."""

    __slots__ = ("_context", "_coroutine", "_error")

    def __init__(
        self, context: Context, coroutine: Coroutine[Any, Any, Any], error: BaseException | None = None
    ) -> None:
        self._context, self._coroutine, self._error = context, coroutine, error

    def __await__(self) -> Generator[Any, Any, Any]:
        run, coroutine, error = self._context.run, self._coroutine, self._error
        step: Callable[[Any], Any] = coroutine.send
        argument: Any = None
        while True:
            try:
                waiting = run(step, argument)
            except StopIteration as stop:
                return stop.value
            if error is not None:
                step, argument, error = coroutine.throw, error, None
                continue
            try:
                step, argument = coroutine.send, (yield waiting)
            except BaseException as exc:
                step, argument = coroutine.throw, exc


class Starter:
    """Starts coroutines at once; lives as long as the engine, whose tasks it makes.

    Args:
        own: is told of each task that goes on with a coroutine.
    """

    def __init__(self, own: Callable[[asyncio.Task[None]], None]) -> None:
        self._own = own
        self._standby: _Standby | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """Return what a coroutine returns, or ``Suspended`` if it has to wait; what it raises is raised.

        Args:
            coroutine: not started.
            context: that it runs in, here and later.
        """
        loop, standby = self._loop, self._standby
        if loop is None or standby is None or standby.task.cancelling():
            loop = self._loop = asyncio.get_running_loop()
            standby = self._standby = _Standby(loop)
        task, current = standby.task, current_task(loop)
        if current is not None:
            _leave_task(loop, current)
        _enter_task(loop, task)
        try:
            waiting = context.run(coroutine.send, None)
        except StopIteration as stop:
            return stop.value
        finally:
            _leave_task(loop, task)
            if current is not None:
                _enter_task(loop, current)
        self._standby = None
        self._own(task)
        return Suspended(standby, context, coroutine, put_aside(waiting))

    def is_first_step(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a task is the one in which a coroutine that has not had to wait yet runs."""
        return self._standby is not None and self._standby.task is task

    async def aclose(self) -> None:
        """End the task that stands by."""
        if self._standby is not None:
            self._standby.task.cancel()
            await asyncio.wait([self._standby.task])
            self._standby = None
