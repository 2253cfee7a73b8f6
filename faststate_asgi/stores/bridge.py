"""Lets code in a thread use a database driver of the event loop: whenever it waits, the loop waits for it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def bridged(loop: asyncio.AbstractEventLoop, func: Callable[[], T]) -> T:
    """Call a function in this thread; what SQLAlchemy's asynchronous drivers wait for in it is done by ``loop``.

    It is what SQLAlchemy's ``greenlet_spawn`` does, with the waiting on another thread's loop.

    Args:
        loop: runs in another thread.
        func: uses a synchronous session on an asynchronous engine.
    """
    greenlet: Any = importlib.import_module("greenlet")
    here = greenlet.getcurrent()
    # By this mark SQLAlchemy knows that waiting is possible.
    kind: Any = type("Waiting", (greenlet.greenlet,), {"__sqlalchemy_greenlet_provider__": True})
    worker = kind(func, here)
    worker.gr_context = here.gr_context
    result: Any = worker.switch()
    while not worker.dead:
        try:
            value = asyncio.run_coroutine_threadsafe(_awaited(result), loop).result()
        except BaseException as exc:
            result = worker.throw(exc)
        else:
            result = worker.switch(value)
    done: T = result
    return done


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
