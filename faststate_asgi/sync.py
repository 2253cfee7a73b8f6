"""``faststate.sync``: transactions for worker threads, held open on the engine's event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .from_thread import refuse_on_loop, run_from_thread
from .nested import taking_part, turn_of
from .outside import pairs_outside
from .state import ReactiveState
from .turns import Turn, current_turn
from .wanted import Wanted

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
        """Delete a stored state; one that this thread's transaction holds goes with its commit."""
        refuse_on_loop(_WRONG_PLACE)
        pairs = pairs_outside(self._engine.registry, (cls,), **ids)
        turn = turn_of(self._engine.runtime.turns, get_ident(), pairs)
        if turn is None:
            self._run(self._engine.delete(cls, **ids))
        else:
            turn.entries[pairs[0][1]].state.delete()

    def logout_user(self, user_id: Any) -> None:
        """End every login of a user."""
        self._run(self._engine.logout_user(user_id))

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return run_from_thread(self._engine, coroutine, _WRONG_PLACE)


class SyncTransaction:
    """A transaction held open on the engine's loop for a block in a thread, which holds its turn.

    Args:
        engine: the open engine.
        wanted: as for ``FastState.transaction``.
        ids: as for ``FastState.transaction``.
    """

    def __init__(self, engine: FastState, wanted: Sequence[Wanted], ids: dict[str, Any]) -> None:
        self._engine, self._wanted, self._ids = engine, wanted, ids
        self._block: AbstractContextManager[list[ReactiveState]] | None = None

    def __enter__(self) -> Any:
        refuse_on_loop(_WRONG_PLACE)
        pairs = pairs_outside(self._engine.registry, self._wanted, **self._ids)
        outer = turn_of(self._engine.runtime.turns, get_ident(), pairs)
        self._block = self._held() if outer is None else taking_part(outer, pairs)
        states = self._block.__enter__()
        return states[0] if len(states) == 1 else tuple(states)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._block is not None, "__enter__ comes first"
        self._block.__exit__(kind, exc, trace)

    @contextmanager
    def _held(self) -> Generator[list[ReactiveState]]:
        """Hold a turn for a block of this thread."""
        hold = _Hold()
        done = asyncio.run_coroutine_threadsafe(hold.run(self._engine, self._wanted, self._ids), self._engine.loop)
        done.add_done_callback(hold.pass_on)
        try:
            turn, states = hold.entered.result()
            turn.holder = get_ident()
            token = current_turn.set(turn)
        except BaseException:
            done.cancel()  # nobody would end it
            raise
        try:
            yield states
        except BaseException:
            hold.finish(_BlockFailed())
            with suppress(_BlockFailed):
                done.result()
            raise
        else:
            hold.finish(None)
            done.result()
        finally:
            current_turn.reset(token)


class _BlockFailed(Exception):
    """Ends a transaction without a change; what the block raised stays in its thread, as it could end the event loop."""


class _Hold:
    """The part of a thread's transaction that runs on the event loop."""

    def __init__(self) -> None:
        self.entered: concurrent.futures.Future[tuple[Turn, list[ReactiveState]]] = concurrent.futures.Future()
        self.finish: Callable[[_BlockFailed | None], object]

    async def run(self, engine: FastState, wanted: Sequence[Wanted], ids: dict[str, Any]) -> None:
        """Take a turn, and give it back once the block has ended."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[_BlockFailed | None] = loop.create_future()
        self.finish = lambda failure: loop.call_soon_threadsafe(finished.set_result, failure)
        async with engine.transaction(*wanted, **ids) as states:
            turn = current_turn.get()
            assert turn is not None, "a transaction holds a turn"
            self.entered.set_result((turn, [states] if isinstance(states, ReactiveState) else list(states)))
            failure = await finished
            if failure is not None:
                raise failure

    def pass_on(self, done: concurrent.futures.Future[None]) -> None:
        """Give the waiting thread the error of a transaction that did not begin."""
        if not self.entered.done():
            error = None if done.cancelled() else done.exception()
            self.entered.set_exception(error or RuntimeError("the transaction ended before it began"))
