"""Worker threads for ``def`` handlers: daemons, so that one that never returns cannot keep the process alive."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """A bounded pool of threads that give their results to futures of an event loop.

    Args:
        limit: how many threads there may be; more work waits.
        name: prefix of the threads' names.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._lock = threading.Lock()
        self._is_closed = False

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run ``work`` in a thread; the future is of the running loop, and may be cancelled or forgotten.

        Raises:
            RuntimeError: the pool is closed.
        """
        if self._is_closed:
            raise RuntimeError("the workers are closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            must_grow = self._idle <= self._work.qsize() and len(self._threads) < self._limit
        if must_grow:
            thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._work.put((work, future))
        return future

    def _serve(self) -> None:
        """Work until the pool is closed."""
        while True:
            with self._lock:
                self._idle += 1
            item = self._work.get()
            with self._lock:
                self._idle -= 1
            if item is None:
                return
            work, future = item
            try:
                result, error = work(), None
            except BaseException as exc:
                result, error = None, exc
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            del item, work, future, result, error

    def close(self) -> None:
        """Let idle threads end; busy ones end when their work returns, or with the process."""
        self._is_closed = True
        for _ in self._threads:
            self._work.put(None)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a future its outcome, if somebody still waits for it."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError("a handler raised StopIteration"))
    else:
        future.set_exception(error)
