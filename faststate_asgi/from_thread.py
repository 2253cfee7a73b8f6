"""What worker threads ask of the engine's event loop, and the error of those who would block it instead."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from .errors import NotResolvedError

if TYPE_CHECKING:
    from .engine import FastState


def is_on_loop() -> bool:
    """Whether this code runs on an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def refuse_on_loop(advice: str) -> None:
    """Let worker threads pass.

    Raises:
        NotResolvedError: this is an event loop; the text is ``advice``.
    """
    if is_on_loop():
        raise NotResolvedError(advice)


def run_from_thread(
    engine: FastState, coroutine: Coroutine[Any, Any, Any], advice: str, deadline_s: float | None = None
) -> Any:
    """Run a coroutine on the engine's loop, and return its result in the thread that asks.

    Args:
        engine: the open engine.
        coroutine: closed if it does not run.
        advice: what to do instead on an event loop.
        deadline_s: how long the thread waits, None for as long as it takes.

    Raises:
        NotResolvedError: this is an event loop, which would wait for itself.
    """
    try:
        refuse_on_loop(advice)
    except NotResolvedError:
        coroutine.close()
        raise
    return asyncio.run_coroutine_threadsafe(coroutine, engine.loop).result(deadline_s)
