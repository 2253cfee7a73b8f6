"""``faststate.sync``: transactions for worker threads, held open on the engine's event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .context import Wanted, is_on_loop
from .errors import NotResolvedError
from .state import ReactiveState

if TYPE_CHECKING:
    from .engine import FastState

S = TypeVar("S", bound=ReactiveState)
_WRONG_PLACE = "faststate.sync is for worker threads; on the event loop use faststate itself"


class SyncFastState:
    """``FastState`` for worker threads; the engine runs on an event loop of another thread.

    Args:
        engine: the open engine.
    """

    def __init__(self, engine: FastState) -> None:
        self._engine = engine

    def transaction(self, *wanted: Wanted, **ids: Any) -> SyncTransaction:
        """Do what ``FastState.transaction`` does, as a plain ``with`` block."""
        return SyncTransaction(self._engine, wanted, ids)

    def get(self, cls: type[S], **ids: Any) -> S:
        """Return a read-only copy."""
        state: S = self._run(self._engine.get(cls, **ids))
        return state

    def delete(self, cls: type[ReactiveState], **ids: Any) -> None:
        """Delete a stored state."""
        self._run(self._engine.delete(cls, **ids))

    def logout_user(self, user_id: Any) -> None:
        """End every login of a user."""
        self._run(self._engine.logout_user(user_id))

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if is_on_loop():
            coroutine.close()
            raise NotResolvedError(_WRONG_PLACE)
        return asyncio.run_coroutine_threadsafe(coroutine, self._engine.loop).result()


class SyncTransaction:
    """A transaction held open on the engine's loop for a block in a thread.

    Args:
        engine: the open engine.
        wanted: as for ``FastState.transaction``.
        ids: as for ``FastState.transaction``.
    """

    def __init__(self, engine: FastState, wanted: Sequence[Wanted], ids: dict[str, Any]) -> None:
        self._engine, self._wanted, self._ids = engine, wanted, ids
        self._finish: Callable[[BaseException | None], None] = lambda exc: None
        self._done: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> Any:
        if is_on_loop():
            raise NotResolvedError(_WRONG_PLACE)
        entered: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._done = asyncio.run_coroutine_threadsafe(self._hold(entered), self._engine.loop)
        self._done.add_done_callback(lambda done: _pass_on(done, entered))
        return entered.result()

    async def _hold(self, entered: concurrent.futures.Future[Any]) -> None:
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[BaseException | None] = loop.create_future()

        def finish(exc: BaseException | None) -> None:
            loop.call_soon_threadsafe(finished.set_result, exc)

        self._finish = finish
        async with self._engine.transaction(*self._wanted, **self._ids) as states:
            entered.set_result(states)
            exc = await finished
            if exc is not None:
                raise exc

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        self._finish(exc)
        assert self._done is not None, "__enter__ comes first"
        try:
            self._done.result()
        except BaseException as raised:
            if raised is not exc:
                raise


def _pass_on(done: concurrent.futures.Future[None], entered: concurrent.futures.Future[Any]) -> None:
    """Give the waiting thread the error of a transaction that did not begin."""
    if not entered.done():
        entered.set_exception(done.exception() or RuntimeError("the transaction ended before it began"))
