"""Runs events and transactions: chooses the way of each event, and gives a repetition of a request the first one's answer.

A handler never runs in the request's task, so a client that leaves interrupts nothing; one that does not wait needs no
task at all. Whoever settles a call first, the handler or the clock, has settled it; the other one is ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from .alone import LoneCalls
from .batches import Batches
from .calls import Call
from .eager import Starter
from .generators import Generators, StreamedCall
from .immediate import ImmediateCalls
from .keys import StateKey
from .plans import StatePlan
from .repeats import PATIENCE_S, Claim, answer_of_first
from .running import RunningCalls
from .state import ReactiveState
from .stores.base import Answer, Store
from .transactions import Transactions
from .turns import Entry, Turns, current_turn
from .workers import Workers

WORKER_THREADS = 40


class Runtime:
    """Runs everything that changes states in this process.

    Args:
        turns: gives out turns.
        answers: the store of idempotency answers.
        idempotency_ttl_s: how long an answer is remembered.
    """

    def __init__(self, turns: Turns, answers: Store, idempotency_ttl_s: float) -> None:
        self.turns = turns
        self._answers = answers
        self._workers = workers = Workers(WORKER_THREADS, "faststate")
        self._calls = calls = RunningCalls()
        self._starter = starter = Starter(calls.adopt)
        now = answers.immediate
        self._immediate = (
            None if now is None else ImmediateCalls(turns, answers, now, starter, workers, calls, idempotency_ttl_s)
        )
        self._batches = Batches(turns, answers, starter, workers, calls, idempotency_ttl_s)
        turns.mailboxes.serve = self._batches.serve
        self._lone = LoneCalls(turns, answers, workers, calls, idempotency_ttl_s)
        self._generators = Generators(turns, answers, workers, calls, idempotency_ttl_s)
        self._transactions = Transactions(turns, starter, calls)
        self.is_draining = False
        self.is_eager = True
        """Whether calls that need not wait run at once; both ways do the same, which tests check."""

    @property
    def active(self) -> int:
        """How many events are running or waiting."""
        return len(self._calls)

    @property
    def events_run(self) -> int:
        """How many events have run."""
        return self._calls.events_run

    def event_of(self, task: asyncio.Task[Any] | None) -> str | None:
        """Return which event a task runs, None if it runs none; may be asked from another thread."""
        if task is None:
            return None
        now = None if self._immediate is None else self._immediate.event
        served = self._batches.event_of(task)
        return served or now or self._generators.event_of(task) or self._calls.event_of(task)

    # -- events ------------------------------------------------------------------------------------------------------

    async def stream(self, call: Call) -> StreamedCall:
        """Run a generator event once; a repetition of the request reads along.

        Raises:
            ArgumentError: another request under the same idempotency key.
        """
        return await self._generators.stream(call)

    def run(self, call: Call) -> Answer | Awaitable[Answer]:
        """Run one event once and return its answer, at once if nothing has to be waited for.

        A repetition of a request gets the first one's answer.

        Raises:
            ArgumentError: another request under the same idempotency key.
            NestedTurnError: the caller holds a turn already.
            OverloadedError: too many wait already.
        """
        calls = self._calls
        first = calls.first(call) if calls.by_name else None
        if first is not None:
            return first.wait()
        if current_turn.get() is not None:
            self.turns.refuse_nested(call.wanted)
        if call.is_alone:
            return self._lone.run(call)
        store, mailboxes, key = self.turns.store_of(call.plan), self.turns.mailboxes, call.key
        is_free = key not in mailboxes.boxes
        if is_free:
            mailboxes.boxes[key] = None
            immediate = self._immediate
            if call.is_direct and self.is_eager and store is self._answers and immediate is not None:
                return immediate.run(call)
        running = calls.add(call)
        try:
            mailboxes.line_up(key, running)
        except BaseException:
            calls.forget(running)
            raise
        calls.deadlines.add(running)
        if is_free:
            mailboxes.leave(key)  # to whoever serves the line
        return running.waiters[0]

    # -- repetitions -------------------------------------------------------------------------------------------------

    def _is_running(self, call: Call) -> bool:
        """Whether a request of the same click runs here."""
        return self._calls.is_running(call) or self._generators.is_running(call)

    async def is_known(self, call: Call) -> bool:
        """Whether a call needs not run: a request of the same click runs here, or its answer is remembered."""
        if not call.names:
            return False
        return self._is_running(call) or bool(await self._answers.recall_all(call.names))

    async def first_of(self, call: Call, read: Callable[[], Awaitable[None]]) -> Answer | StreamedCall | None:
        """Return what the first request of a click is answered, for a repetition that may not run; None if there was none.

        Args:
            call: the repetition.
            read: reads its data, which tell whether it is the same request; called if there is something to compare.

        Raises:
            ArgumentError: another request under the same idempotency key.
        """
        if not self._is_running(call):
            if self._answers.is_shared:  # it may run at another process
                claim = Claim(self.turns, self._answers, call.names[-1])
                known = await claim.take(call.spec.options.timeout_s + PATIENCE_S, call.names)
                await claim.give_back()
            else:
                known = await self._answers.recall_all(call.names)
            if not known:
                return None
        await read()
        streamed = self._generators.first(call)
        if streamed is not None:
            return streamed
        first = self._calls.first(call)
        return await (answer_of_first(self._answers, call) if first is None else first.wait())

    # -- transactions ------------------------------------------------------------------------------------------------

    def transaction(
        self,
        wanted: Sequence[tuple[StatePlan, StateKey]],
        check: Callable[[Entry], Awaitable[None]] | None = None,
        *,
        is_read: bool = True,
    ) -> AbstractAsyncContextManager[list[ReactiveState]]:
        """Give private copies of states that are committed together when the block ends, and not if it raises.

        Args:
            wanted: classes and keys.
            check: called with each loaded state; raises to refuse.
            is_read: whether the states are needed; else one that cannot be read is given as never stored.
        """
        return self._transactions.opened(wanted, check, is_read=is_read)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Refuse new events and wait until those that run have ended, at most ``timeout_s``."""
        self.is_draining = True
        await self._calls.drain(timeout_s)

    def give_up(self) -> None:
        """Answer 503 for every call that still runs, and cancel what can be cancelled."""
        self._calls.give_up()

    async def aclose(self) -> None:
        """End what is still running; handlers in threads keep their thread until they return."""
        await self._starter.aclose()
        await self._calls.aclose()
        self.close_workers()

    def close_workers(self) -> None:
        """Let idle threads end; one that is busy ends when its handler returns."""
        self._workers.close()
