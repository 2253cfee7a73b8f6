"""Runs events and transactions: one turn each, handlers once, answers remembered.

A handler never runs in the request's task, so a client that leaves interrupts nothing; one that does not wait needs no
task at all. Whoever settles a call first, the handler or the clock, has settled it; the other one is ignored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from threading import get_ident
from typing import Any, TypeAlias, TypeVar

from .alone import LoneCalls
from .batches import Batches
from .calls import (
    MAX_ANSWER_BYTES,
    Call,
    concluded,
    is_refusal,
    kept,
    known_answer,
    names_to_keep,
    names_to_recall,
    remembered,
)
from .eager import Starter, Suspended
from .events import Kind
from .generators import Generators, StreamedCall
from .hub import Hub
from .keys import StateKey
from .registry import StatePlan
from .repeats import PATIENCE_S, Claim, answer_of_first
from .running import Running, RunningCalls
from .state import ReactiveState
from .stores.base import Answer, ImmediateStore, Snapshot, Store
from .transactions import Transactions
from .turns import Entry, Prepared, Turn, Turns, current_turn, new_commit_id
from .updates import Update
from .workers import Workers

T = TypeVar("T")
Concluded: TypeAlias = tuple[Prepared | Update | None, Answer]
"""What a call is to commit, and its answer."""

WORKER_THREADS = 40


class Runtime:
    """Runs everything that changes states in this process.

    Args:
        turns: gives out turns.
        hub: the process's fan-out.
        answers: the store of idempotency answers.
        idempotency_ttl_s: how long an answer is remembered.
    """

    def __init__(self, turns: Turns, hub: Hub, answers: Store, idempotency_ttl_s: float) -> None:
        self.turns = turns
        self.hub = hub
        self._answers = answers
        self._idempotency_ttl_s = idempotency_ttl_s
        self._workers = workers = Workers(WORKER_THREADS, "faststate")
        self._calls = calls = RunningCalls()
        self._starter = starter = Starter(calls.adopt)
        self._batches = Batches(turns, answers, starter, workers, calls, idempotency_ttl_s)
        turns.mailboxes.serve = self._batches.serve
        self._lone = LoneCalls(turns, answers, workers, calls, idempotency_ttl_s)
        self._generators = Generators(turns, answers, workers, calls, idempotency_ttl_s)
        self._transactions = Transactions(turns, starter, calls)
        self.is_draining = False
        self.is_eager = True
        """Whether calls that need not wait run at once; both ways do the same, which tests check."""
        self._called_now: Call | None = None

    # -- events ------------------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many events are running or waiting."""
        return len(self._calls)

    @property
    def events_run(self) -> int:
        """How many events have run."""
        return self._calls.events_run

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
            if call.is_direct and self.is_eager and store is self._answers and store.immediate is not None:
                return self._run_now(call, store, store.immediate)
        running = self._calls.add(call)
        try:
            mailboxes.line_up(key, running)
        except BaseException:
            calls.forget(running)
            raise
        self._calls.deadlines.add(running)
        if is_free:
            mailboxes.leave(key)  # to whoever serves the line
        return running.waiters[0]

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

    def event_of(self, task: asyncio.Task[Any] | None) -> str | None:
        """Return which event a task runs, None if it runs none; may be asked from another thread."""
        if task is None:
            return None
        called = self._called_now
        now = None if called is None else called.spec.path
        served = self._batches.event_of(task)
        return served or now or self._generators.event_of(task) or self._calls.event_of(task)

    # -- at once, where nothing waits --------------------------------------------------------------------------------

    def _run_now(self, call: Call, store: Store, now: ImmediateStore) -> Answer | Awaitable[Answer]:
        """Run a call whose key's turn has been taken, and whose store never waits; gives the turn back."""
        key, spec = call.key, call.spec
        turn = Turn(self.turns, (key,), store, {key: now.peek(key)})
        try:
            names = call.names if call.typed is None else names_to_recall(call)
            known = now.recall_all_now(names) if names else None
            answer = known_answer(call, known) if known else None
            if answer is not None:
                turn.release_now()
                return answer
            if spec.kind is Kind.THREAD:
                return self._hop(call, turn, now)
            started_at = time.monotonic()
            context = copy_context()
            context.run(current_turn.set, turn)
            self._called_now = call
            try:
                state, arguments = call.prepare_now(turn)
                result = context.run(spec.func, state, **arguments)
                if spec.kind is Kind.ASYNC:
                    result = self._starter.begin(result, context)
                    if type(result) is Suspended:
                        return self._go_on(call, turn, now, result)
                changed, answer = self._concluded(call, turn, result)
            except BaseException as exc:  # of the handler: nobody has cancelled anything here
                return self._failed_now(call, turn, now, exc)
            finally:
                self._called_now = None
            self._commit_now(call, turn, now, changed, answer, started_at)
        except BaseException:
            turn.release_now()
            raise
        return answer

    def _concluded(self, call: Call, turn: Turn, result: Any) -> Concluded:
        """Do all that can fail after a handler has returned and before the commit.

        What most events are, one that changes its state and returns nothing, takes a shorter way than ``prepare`` and
        ``respond``.
        """
        if result is None and call.typed is None:
            update = self.turns.change_of(turn.entries[call.key], new_commit_id())
            return update, call.respond_one(update)
        return concluded(call, turn, result)

    def _commit_now(
        self, call: Call, turn: Turn, now: ImmediateStore, changed: Prepared | Update | None, answer: Answer, at: float
    ) -> None:
        """Store what a call changed and its answer, tell the pages, and give the turn back.

        Args:
            call: the call, which began ``at``.
            turn: its turn.
            now: where its state lives.
            changed: what it changed.
            answer: its answer.
            at: by the monotonic clock.
        """
        updates: Sequence[Update]
        if isinstance(changed, Prepared):
            turn.commit_now(now, changed, remembered(call, answer, self._idempotency_ttl_s))
            updates = changed.updates
        else:
            updates = () if changed is None else (changed,)
            if changed is not None:
                entry = turn.entries[call.key]
                if changed.data is None:
                    now.apply((self.turns.write_of(entry, changed),), ())
                else:
                    snapshot = Snapshot(changed.version, changed.data, entry.shape)
                    now.put(call.key, snapshot, self.turns.ttl_of(entry.plan))
                self.turns.announce(updates)
            names = call.names
            if names:
                late, body = call.late_names(), answer[3]
                if late or (body is not None and len(body) > MAX_ANSWER_BYTES):
                    names, answer = names_to_keep(call), kept(answer)
                now.keep(names, answer, self._idempotency_ttl_s, call.owner)
            turn.release_now()
        self._calls.committed(call, updates, at)

    def _failed_now(self, call: Call, turn: Turn, now: ImmediateStore, exc: BaseException) -> Answer:
        """Return the answer of a failed call; that its handler ran is remembered."""
        answer = call.failed(exc)
        if not is_refusal(exc):
            now.apply((), remembered(call, answer, self._idempotency_ttl_s, has_failed=True))
        turn.release_now()
        return answer

    def _go_on(self, call: Call, turn: Turn, now: ImmediateStore, suspended: Suspended) -> Awaitable[Answer]:
        """Wait for a handler that has begun."""
        running = self._calls.add(call)
        running.begin()
        running.task = turn.holder = suspended.task
        self._calls.deadlines.add(running)
        running.settle = lambda outcome: self._settle_now(running, turn, now, outcome)
        suspended.go_on(self._finish(running, turn, suspended))
        return running.waiters[0]

    async def _finish(self, running: Running, turn: Turn, suspended: Suspended) -> None:
        try:
            outcome: Any = self._concluded(running.call, turn, await suspended)
        except BaseException as exc:
            outcome = exc
        if running.claim() and running.settle is not None:
            running.settle(outcome)

    def _hop(self, call: Call, turn: Turn, now: ImmediateStore) -> Awaitable[Answer]:
        """Run a ``def`` handler in a worker thread."""
        running = self._calls.add(call)
        self._calls.deadlines.add(running)
        running.settle = lambda outcome: self._settle_now(running, turn, now, outcome)

        def work() -> Any:
            return running.context.run(self._worked, call, turn) if running.begin() else None

        def done(outcome: Any, error: BaseException | None) -> None:
            if running.claim() and running.settle is not None:
                running.settle(outcome if error is None else error)

        self._workers.submit(work, done)
        return running.waiters[0]

    def _worked(self, call: Call, turn: Turn) -> Concluded:
        """Do all that can fail of a ``def`` event, its handler included; in the context of its request."""
        current_turn.set(turn)
        turn.holder = get_ident()
        state, arguments = call.prepare_now(turn)
        return self._concluded(call, turn, call.spec.func(state, **arguments))

    def _settle_now(self, running: Running, turn: Turn, now: ImmediateStore, outcome: Any) -> None:
        """Commit what a claimed call did, or forget it, and answer."""
        call = running.call
        running.settle = None
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            changed, answer = outcome
            self._commit_now(call, turn, now, changed, answer, running.started_at)
        except BaseException as exc:  # of the handler: nobody has cancelled anything here
            answer = self._failed_now(call, turn, now, exc)
        self._calls.settle(running, answer)

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
