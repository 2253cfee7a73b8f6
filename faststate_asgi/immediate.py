"""Events that run at once: in a store that never waits, with nobody in line, from the gate to the answer.

One that does not have to wait takes no task, no future and no timer. A handler that has to goes on in a task of the
engine, a ``def`` handler in a thread; whoever settles such a call first, the handler or the clock, has settled it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from contextvars import copy_context
from threading import get_ident
from typing import Any, TypeAlias

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
from .running import Running, RunningCalls
from .stores.base import Answer, ImmediateStore, Snapshot, Store
from .turns import Prepared, Turn, Turns, current_turn, new_commit_id
from .updates import Update
from .workers import Workers

Concluded: TypeAlias = tuple[Prepared | Update | None, Answer]
"""What a call is to commit, and its answer."""


class ImmediateCalls:
    """Runs calls whose key is free, and whose state and answer live in the same store; lives as long as the runtime.

    Args:
        turns: whose turns they have.
        store: keeps the states and the answers.
        now: the store itself, which never waits.
        starter: starts handlers.
        workers: run ``def`` handlers.
        calls: those that run.
        idempotency_ttl_s: how long an answer is remembered.
    """

    def __init__(
        self,
        turns: Turns,
        store: Store,
        now: ImmediateStore,
        starter: Starter,
        workers: Workers,
        calls: RunningCalls,
        idempotency_ttl_s: float,
    ) -> None:
        self._turns, self._store, self._now, self._starter, self._workers = turns, store, now, starter, workers
        self._calls, self._idempotency_ttl_s = calls, idempotency_ttl_s
        self._called: Call | None = None

    @property
    def event(self) -> str | None:
        """Which event runs in this moment, None for none; may be asked from another thread."""
        called = self._called
        return None if called is None else called.spec.path

    def run(self, call: Call) -> Answer | Awaitable[Answer]:
        """Run a call whose key's turn has been taken; gives the turn back."""
        key, spec, now = call.key, call.spec, self._now
        turn = Turn(self._turns, (key,), self._store, {key: now.peek(key)})
        try:
            names = call.names if call.typed is None else names_to_recall(call)
            known = now.recall_all_now(names) if names else None
            answer = known_answer(call, known) if known else None
            if answer is not None:
                turn.release_now()
                return answer
            if spec.kind is Kind.THREAD:
                return self._hop(call, turn)
            started_at = time.monotonic()
            context = copy_context()
            context.run(current_turn.set, turn)
            self._called = call
            try:
                state, arguments = call.prepare_now(turn)
                result = context.run(spec.func, state, **arguments)
                if spec.kind is Kind.ASYNC:
                    result = self._starter.begin(result, context)
                    if type(result) is Suspended:
                        return self._go_on(call, turn, result)
                changed, answer = self._concluded(call, turn, result)
            except BaseException as exc:  # of the handler: nobody has cancelled anything here
                return self._failed(call, turn, exc)
            finally:
                self._called = None
            self._commit(call, turn, changed, answer, started_at)
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
            update = self._turns.change_of(turn.entries[call.key], new_commit_id())
            return update, call.respond_one(update)
        return concluded(call, turn, result)

    def _commit(
        self, call: Call, turn: Turn, changed: Prepared | Update | None, answer: Answer, started_at: float
    ) -> None:
        """Store what a call changed and its answer, tell the pages, and give the turn back."""
        now = self._now
        updates: Sequence[Update]
        if isinstance(changed, Prepared):
            turn.commit_now(now, changed, remembered(call, answer, self._idempotency_ttl_s))
            updates = changed.updates
        else:
            updates = () if changed is None else (changed,)
            if changed is not None:
                entry = turn.entries[call.key]
                if changed.data is None:
                    now.apply((self._turns.write_of(entry, changed),), ())
                else:
                    snapshot = Snapshot(changed.version, changed.data, entry.shape)
                    now.put(call.key, snapshot, self._turns.ttl_of(entry.plan))
                self._turns.announce(updates)
            names = call.names
            if names:
                late, body = call.late_names(), answer[3]
                if late or (body is not None and len(body) > MAX_ANSWER_BYTES):
                    names, answer = names_to_keep(call), kept(answer)
                now.keep(names, answer, self._idempotency_ttl_s, call.owner)
            turn.release_now()
        self._calls.committed(call, updates, started_at)

    def _failed(self, call: Call, turn: Turn, exc: BaseException) -> Answer:
        """Return the answer of a failed call; that its handler ran is remembered."""
        answer = call.failed(exc)
        if not is_refusal(exc):
            self._now.apply((), remembered(call, answer, self._idempotency_ttl_s, has_failed=True))
        turn.release_now()
        return answer

    # -- those that have to wait -------------------------------------------------------------------------------------

    def _waiting(self, call: Call, turn: Turn) -> Running:
        """Return a call that goes on without its request, until it has ended or its time is over."""
        running = self._calls.add(call)
        self._calls.deadlines.add(running)
        running.settle = lambda outcome: self._settle(running, turn, outcome)
        return running

    def _go_on(self, call: Call, turn: Turn, suspended: Suspended) -> Awaitable[Answer]:
        """Wait for a handler that has begun."""
        running = self._waiting(call, turn)
        running.begin()
        running.task = turn.holder = suspended.task
        suspended.go_on(self._finish(running, turn, suspended))
        return running.waiters[0]

    async def _finish(self, running: Running, turn: Turn, suspended: Suspended) -> None:
        try:
            outcome: Any = self._concluded(running.call, turn, await suspended)
        except BaseException as exc:
            outcome = exc
        if running.claim():
            self._settle(running, turn, outcome)

    def _hop(self, call: Call, turn: Turn) -> Awaitable[Answer]:
        """Run a ``def`` handler in a worker thread."""
        running = self._waiting(call, turn)

        def work() -> Any:
            return running.context.run(self._worked, call, turn) if running.begin() else None

        def done(outcome: Any, error: BaseException | None) -> None:
            if running.claim():
                self._settle(running, turn, outcome if error is None else error)

        self._workers.submit(work, done)
        return running.waiters[0]

    def _worked(self, call: Call, turn: Turn) -> Concluded:
        """Do all that can fail of a ``def`` event, its handler included; in the context of its request."""
        current_turn.set(turn)
        turn.holder = get_ident()
        state, arguments = call.prepare_now(turn)
        return self._concluded(call, turn, call.spec.func(state, **arguments))

    def _settle(self, running: Running, turn: Turn, outcome: Any) -> None:
        """Commit what a claimed call did, or forget it, and answer."""
        call = running.call
        running.settle = None
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            changed, answer = outcome
            self._commit(call, turn, changed, answer, running.started_at)
        except BaseException as exc:  # of the handler: nobody has cancelled anything here
            answer = self._failed(call, turn, exc)
        self._calls.settle(running, answer)
