"""Worker threads for ``def`` handlers: daemons, so that one that never returns cannot keep the process alive."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
Done = Callable[[Any, "BaseException | None"], None]

logger = logging.getLogger("faststate")

ENDS_OF_PROGRAMS = (KeyboardInterrupt, SystemExit)
"""What a task hands on to its loop, which ends then: from a handler they are errors like any other."""

PATIENCE_S = 0.002
"""How long work may wait for the threads that are awake before others help."""


class Workers:
    """A bounded pool of threads that work for one event loop.

    A thread that is awake takes what there is, one piece after another, and results go back together: handing each
    piece to a thread and back would cost more than most handlers. Work that has waited ``PATIENCE_S`` wakes others.

    Args:
        limit: how many threads there may be; more work waits.
        name: prefix of the threads' names.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._work: deque[tuple[Callable[[], Any], Done]] = deque()
        self._done: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._awake = 0
        self._taken = 0
        self._taken_before = 0
        self._is_told = False
        self._is_watching = False
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, work: Callable[[], Any], done: Done) -> None:
        """Run ``work`` in a thread, then ``done(result, error)`` on the running loop.

        Raises:
            RuntimeError: the pool is closed.
        """
        if self._is_closed:
            raise RuntimeError("the workers are closed")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._work.append((work, done))
        if self._awake == 0:
            self._wake_up(1)
        elif not self._is_watching:
            self._is_watching, self._taken_before = True, self._taken
            self._loop.call_later(PATIENCE_S, self._look)

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run ``work`` in a thread; the future is of the running loop, and may be cancelled or forgotten.

        Work whose future is done before a thread comes does not begin.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.submit(lambda: None if future.done() else work(), partial(_settle, future))
        return future

    def _look(self) -> None:
        """Wake threads for work that has waited: one if it goes on, as many as there is work if it has come to a stop."""
        if not self._work or self._is_closed or self._loop is None:
            self._is_watching = False
            return
        self._wake_up(1 if self._taken != self._taken_before else len(self._work))
        self._taken_before = self._taken
        self._loop.call_later(PATIENCE_S, self._look)

    def _wake_up(self, count: int) -> None:
        """Wake sleeping threads, or start new ones as long as there may be more."""
        for _ in range(count):
            with self._lock:
                if self._awake == self._limit:
                    return
                is_new = self._awake == len(self._threads)
                self._awake += 1
            if is_new:
                thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            else:
                self._wake.put(True)

    def _serve(self) -> None:
        """Work and sleep until the pool is closed."""
        while True:
            self._empty()
            with self._lock:
                self._awake -= 1
            if not self._wake.get():
                return

    def _empty(self) -> None:
        """Take work until there is none."""
        while True:
            try:
                work, done = self._work.popleft()
            except IndexError:
                return
            self._taken += 1  # only a hint: a lost count does no harm
            result: Any = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as exc:
                error = exc
            self._done.append((done, result, error))
            if not self._is_told and self._loop is not None:
                self._is_told = True
                try:
                    self._loop.call_soon_threadsafe(self._hand_out)
                except RuntimeError:
                    return  # the loop is closed: nobody waits any more
            del work, done, result, error

    def _hand_out(self) -> None:
        """Give results to who waits for them."""
        self._is_told = False
        while self._done:
            done, result, error = self._done.popleft()
            try:
                done(result, error)
            except Exception:
                logger.exception("the result of a worker thread could not be used")

    def close(self) -> None:
        """Let idle threads end; busy ones end when their work returns, or with the process."""
        self._is_closed = True
        for _ in self._threads:
            self._wake.put(False)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a future its outcome, if somebody still waits for it."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:  # a future refuses the one, and a task that is given one of the others ends the loop or looks cancelled
        future.set_exception(as_exception(error))


def as_exception(error: BaseException) -> Exception:
    """Return what a handler raised that only looks like the end of a program, a task or a generator, as its error."""
    result = RuntimeError(f"a handler raised {type(error).__name__}")
    result.__cause__ = error
    return result
