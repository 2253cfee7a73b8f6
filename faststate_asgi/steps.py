"""Awaitables stepped by hand: what is ready at once needs neither a task nor a clock."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator, Iterable
from functools import partial
from typing import Any


def put_aside(waiting: Any) -> Any:
    """Return what a step yielded, to be waited for later; until then others may wait for it too.

    A future is marked as awaited until a task has seen it, and while it is marked nobody else can await it.
    """
    if getattr(waiting, "_asyncio_future_blocking", False):
        waiting._asyncio_future_blocking = False
    return waiting


@types.coroutine
def resumed(stepped: Any, waiting: Any) -> Generator[Any, Any, Any]:
    """Go on with what was stepped once and yielded ``waiting``; return its result.

    Args:
        stepped: a coroutine, or the iterator of an awaitable.
        waiting: what it waits for.
    """
    if getattr(waiting, "_asyncio_future_blocking", None) is False:
        waiting._asyncio_future_blocking = True  # see ``put_aside``
    while True:
        try:
            value = yield waiting
        except BaseException as exc:
            step = partial(stepped.throw, exc)
        else:
            step = partial(stepped.send, value)
        try:
            waiting = step()
        except StopIteration as done:
            return done.value


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when they have ended.

    A library may swallow a cancellation that comes together with a timeout of its own: such a task is cancelled again.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=0.5)
        for task in done:
            if not task.cancelled():
                task.exception()  # nobody asks any more


class _OthersFirst:
    """Awaited, lets everything that is ready run first; ``asyncio.sleep(0)`` without a coroutine."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


OTHERS_FIRST = _OthersFirst()
