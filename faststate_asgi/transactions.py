"""Transactions: several states changed together by code that is no event, committed when its block ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from .eager import Starter
from .keys import StateKey
from .nested import taking_part, turn_of
from .plans import StatePlan
from .running import RunningCalls
from .state import ReactiveState
from .turns import Entry, Prepared, Turn, Turns, current_turn

WAIT_S = 30.0


class Transactions:
    """Opens transactions; lives as long as the runtime.

    Args:
        turns: gives out turns.
        starter: knows the task in which a handler makes its first step.
        calls: own the tasks in which commits end.
    """

    def __init__(self, turns: Turns, starter: Starter, calls: RunningCalls) -> None:
        self._turns, self._starter, self._calls = turns, starter, calls

    @asynccontextmanager
    async def opened(
        self,
        wanted: Sequence[tuple[StatePlan, StateKey]],
        check: Callable[[Entry], Awaitable[None]] | None = None,
        *,
        is_read: bool = True,
    ) -> AsyncGenerator[list[ReactiveState]]:
        """Give private copies of states that are committed together when the block ends, and not if it raises.

        Inside a turn on them the block takes part in that turn.

        Args:
            wanted: classes and keys.
            check: called with each loaded state; raises to refuse.
            is_read: whether the states are needed; else one that cannot be read is given as never stored.
        """
        task = asyncio.current_task()
        outer = turn_of(self._turns, None if self._starter.is_first_step(task) else task, wanted)
        if outer is not None:
            with taking_part(outer, wanted) as states:
                yield states
            return
        turn = await self._turns.take(wanted, WAIT_S)
        turn.holder = task
        token = current_turn.set(turn)
        try:
            load = turn.load if is_read else turn.load_or_blank
            entries = [load(plan, key, may_create=True) for plan, key in wanted]
            for entry in entries:
                if check is not None:
                    await check(entry)
            yield [entry.state for entry in entries]
            prepared = turn.prepare()
        except BaseException:
            await self._shielded(turn, turn.release())
            raise
        else:
            await self._shielded(turn, _ended(turn, prepared))
        finally:
            current_turn.reset(token)
            turn.close()

    async def _shielded(self, turn: Turn, coroutine: Coroutine[Any, Any, None]) -> None:
        """Finish a coroutine even if the caller is cancelled meanwhile."""
        if not turn.store.is_shared:
            await coroutine  # it does not wait, so nothing can cancel it
            return
        await asyncio.shield(self._calls.own(coroutine))


async def _ended(turn: Turn, prepared: Prepared) -> None:
    """Commit and give the turn back, one after the other also for a caller who is cancelled meanwhile."""
    try:
        await turn.commit(prepared)
    finally:
        await turn.release()
