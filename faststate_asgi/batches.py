"""Group commit: calls that wait for one key share a turn, and what they changed is committed at once.

Each call works on what the one before it left, keeps its own answer and its own rollback, and is told after the
commit. A call that takes long does not hold up those before it: they are committed while it runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from threading import get_ident
from typing import Any, TypeAlias

from .calls import (
    Call,
    concluded,
    is_cancelled,
    is_refusal,
    known_answer,
    names_to_recall,
    remembered,
    stopping,
    timed_out,
)
from .eager import InContext, Starter, Suspended
from .errors import FastStateError
from .events import Kind
from .keys import StateKey
from .running import Running, RunningCalls
from .stores.base import NO_VERSION, Answer, Lease, Snapshot, Store, Write
from .turns import Prepared, Turn, Turns, current_turn
from .workers import Workers

logger = logging.getLogger("faststate.events")

MAX_CALLS = 64
FLUSH_AFTER_S = 0.02
MAX_GATHER_S = 0.002

Done: TypeAlias = tuple[Running, Prepared | None, Answer]
"""A call that has run: what it is to commit (None if it failed), and its answer."""

Outcome: TypeAlias = tuple[Prepared, Answer] | BaseException


class Batch:
    """One turn on one key that several calls share; lives until all of them are answered.

    Args:
        key: the key.
        store: where it lives.
        lease: the store's turn; None where the queue alone is the turn.
        snapshot: what is stored.
    """

    def __init__(self, key: StateKey, store: Store, lease: Lease | None, snapshot: Snapshot | None) -> None:
        self.key, self.store, self.lease = key, store, lease
        self.snapshot = snapshot
        self.known: dict[str, Answer] = {}
        self.done: list[Done] = []
        self.broken: Exception | None = None
        self.is_released = False
        self.opened_s = 0.0  # how long it took to have the turn

    def turn(self, turns: Turns) -> Turn:
        """Return the turn of the next call: it sees what those before it left."""
        turn = Turn(turns, (self.key,), self.store, {self.key: self.snapshot})
        turn.lease = self.lease
        return turn

    def accept(self, running: Running, prepared: Prepared, answer: Answer) -> None:
        """Take what a call changed into the commit."""
        self.snapshot = after(self.snapshot, prepared.writes)
        self.done.append((running, prepared, answer))


class Batches:
    """Serves the lines of keys; lives as long as the runtime.

    Args:
        turns: gives out turns.
        answers: the store of idempotency answers.
        starter: starts handlers.
        workers: run ``def`` handlers.
        calls: those that run.
        idempotency_ttl_s: how long an answer is remembered.
    """

    def __init__(
        self,
        turns: Turns,
        answers: Store,
        starter: Starter,
        workers: Workers,
        calls: RunningCalls,
        idempotency_ttl_s: float,
    ) -> None:
        self._turns, self._answers, self._starter, self._workers = turns, answers, starter, workers
        self._calls, self._idempotency_ttl_s = calls, idempotency_ttl_s
        self._served: dict[asyncio.Task[Any], Running] = {}

    def event_of(self, task: asyncio.Task[Any]) -> str | None:
        """Return which event a task runs that serves a line, None if it runs none."""
        running = self._served.get(task)
        return None if running is None else running.call.spec.path

    def serve(self, key: StateKey) -> None:
        """Take over the turn on a key: run the calls at the head of its line, then pass the turn on."""
        self._calls.own(self._serve(key))

    async def _serve(self, key: StateKey) -> None:
        mailboxes = self._turns.mailboxes
        try:
            calls: list[Running] = mailboxes.take_calls(key, MAX_CALLS)
            if calls:
                await self._run(key, calls)
        finally:
            mailboxes.leave(key)

    async def _run(self, key: StateKey, calls: list[Running]) -> None:
        """Run calls in one turn, and answer all of them."""
        try:
            batch = await self._opened(key, calls)
        except Exception as exc:
            for running in calls:
                if running.begin() and running.claim():
                    self._calls.settle(running, running.call.failed(exc))
            return
        try:
            await self._run_all(batch, deque(calls))
        finally:
            for running, _, _ in batch.done:  # which ran while a commit failed, or this task was cancelled
                self._calls.settle(running, running.call.failed(batch.broken or stopping()))
            await self._close(batch)
        if batch.lease is not None and len(calls) > 1:
            await self._gather(batch, len(calls))

    async def _gather(self, batch: Batch, count: int) -> None:
        """Let those who were answered together line up again; else the first one would take a turn for itself."""
        mailboxes = self._turns.mailboxes
        wanted = mailboxes.waiting_for(batch.key) + count
        until = time.monotonic() + min(MAX_GATHER_S, batch.opened_s)
        # A timer is coarser than what is waited for.
        while mailboxes.waiting_for(batch.key) < wanted and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def _close(self, batch: Batch) -> None:
        """Give the lease back if no commit did; where the store is down, it runs out."""
        if batch.lease is None:
            return
        self._turns.forget(batch.lease)
        if not batch.is_released:
            try:
                await batch.store.release(batch.lease)
            except FastStateError as exc:
                logger.warning("the turn on a state could not be given back: %s", exc)

    async def _opened(self, key: StateKey, calls: list[Running]) -> Batch:
        """Take the store's turn, and answer repetitions of requests that were answered before."""
        store, began_at = self._turns.store_of(calls[0].call.plan), time.monotonic()
        lease: Lease | None = None
        names = [name for running in calls for name in names_to_recall(running.call)]
        is_here = store is self._answers
        if store.immediate is not None:
            snapshot = store.immediate.peek(key)
            known: Mapping[str, Answer] = store.immediate.recall_all_now(names) if is_here else {}
        else:
            wait_s = max(running.call.spec.options.timeout_s for running in calls)
            lease = await store.acquire((key,), wait_s=wait_s, recall=names if is_here else ())
            self._turns.hold(lease, store)
            snapshot, known = lease.snapshots[key], lease.answers
        batch = Batch(key, store, lease, snapshot)
        try:
            batch.known.update(known if is_here or not names else await self._answers.recall_all(names))
        except BaseException:
            await self._close(batch)
            raise
        batch.opened_s = time.monotonic() - began_at
        return batch

    def _is_answered(self, batch: Batch, running: Running) -> bool:
        """Answer a call that needs not run."""
        answer = known_answer(running.call, batch.known) if batch.known else None
        if answer is not None and running.begin() and running.claim():
            self._calls.settle(running, answer)
        return answer is not None

    # -- running -----------------------------------------------------------------------------------------------------

    async def _run_all(self, batch: Batch, calls: deque[Running]) -> None:
        """Run each call, and commit what they did."""
        while calls and batch.broken is None:
            running = calls.popleft()
            if running.call.typed is not None:
                await self._commit(batch, release=False)  # other processes hear of one request with each commit
            if self._is_answered(batch, running):
                continue
            if _is_for_thread(running):
                group = [running]
                while calls and _is_for_thread(calls[0]) and not self._is_answered(batch, calls[0]):
                    group.append(calls.popleft())
                await self._run_in_thread(batch, group, calls)
            elif running.begin():
                await self._run_here(batch, running)
        if batch.broken is None:
            await self._commit(batch, release=True)
        for running in calls:
            if running.begin() and running.claim():
                self._calls.settle(running, running.call.failed(batch.broken or stopping()))

    async def _run_here(self, batch: Batch, running: Running) -> None:
        """Run one call from the event loop."""
        turn, task = batch.turn(self._turns), asyncio.current_task()
        assert task is not None, "lines are served by tasks"
        running.context.run(current_turn.set, turn)
        self._served[task] = running
        try:
            result = await self._result(batch, running, turn)
            prepared, answer = running.context.run(concluded, running.call, turn, result)
        except BaseException as exc:
            if is_cancelled():
                raise
            if running.claim():
                self._refuse(batch, running, exc)
        else:
            if running.claim():
                batch.accept(running, prepared, answer)
        finally:
            turn.is_active = False
            del self._served[task]

    async def _result(self, batch: Batch, running: Running, turn: Turn) -> Any:
        """Return what the handler returns; what was done before it is committed if it has to wait."""
        call, context = running.call, running.context
        if call.is_direct:
            state, arguments = context.run(call.prepare_now, turn)
        else:
            await self._commit(batch, release=False)
            try:
                async with asyncio.timeout(call.spec.options.timeout_s):
                    state, arguments = await InContext(context, call.prepare(turn))
            except TimeoutError:
                raise timed_out(call) from None
        outcome: asyncio.Future[Any]
        if call.spec.kind is Kind.THREAD:
            outcome = self._workers.run(lambda: context.run(_handled, turn, call, state, arguments))
        else:
            result = context.run(call.spec.func, state, **arguments)
            if call.spec.kind is Kind.ASYNC:
                result = self._starter.begin(result, context)
            if type(result) is not Suspended:
                return result
            turn.holder = result.task
            outcome = running.go_on(result)
        running.outcome = outcome
        self._calls.deadlines.add(running)
        try:
            await self._commit(batch, release=False)
            return await outcome
        finally:
            self._calls.deadlines.drop(running)

    def _refuse(self, batch: Batch, running: Running, exc: BaseException) -> None:
        """Answer a claimed call whose handler failed: nothing of it is changed; that it ran is remembered."""
        answer = running.call.failed(exc)
        if is_refusal(exc):
            self._calls.settle(running, answer)
        else:
            batch.done.append((running, None, answer))

    # -- in a thread -------------------------------------------------------------------------------------------------

    async def _run_in_thread(self, batch: Batch, group: list[Running], rest: deque[Running]) -> None:
        """Run several ``def`` handlers by one hop to a thread; what did not begin when one got stuck goes back."""
        todo, results = deque(group), deque[tuple[Running, Outcome]]()
        finished = self._workers.run(lambda: self._work(batch, todo, results))
        while True:
            await asyncio.wait([finished], timeout=self._patience_s(group, todo))
            is_done = finished.done()
            self._take_over(batch, results)
            if is_done or self._is_stuck(batch, group):
                break
            if all(running.is_claimed for running in group) and len(todo) == len(group):
                todo.clear()  # no thread came in time
                break
            await self._commit(batch, release=False)
        rest.extendleft(reversed(todo))

    def _patience_s(self, group: list[Running], todo: deque[Running]) -> float:
        """Return how long to wait before the next look: calls that have run should not wait long for their commit."""
        if todo:
            return FLUSH_AFTER_S
        current = _in_progress(group)
        return FLUSH_AFTER_S if current is None else max(FLUSH_AFTER_S, current.left_s())

    def _is_stuck(self, batch: Batch, group: list[Running]) -> bool:
        """Whether the call that runs in the thread has taken too long; it is answered then."""
        current = _in_progress(group)
        if current is None or current.left_s() > 0 or not current.claim():
            return False
        self._refuse(batch, current, timed_out(current.call))
        return True

    def _work(self, batch: Batch, todo: deque[Running], results: deque[tuple[Running, Outcome]]) -> None:
        """Run handlers in a worker thread, one on what the other left, and all there that can fail."""
        snapshot = batch.snapshot
        while todo:
            running = todo.popleft()
            if not running.begin():
                continue
            turn = Turn(self._turns, (batch.key,), batch.store, {batch.key: snapshot})
            turn.lease = batch.lease
            outcome: Outcome
            try:
                outcome = running.context.run(worked, running.call, turn)
            except BaseException as exc:
                outcome = exc
            turn.is_active = False
            if not running.claim():
                return  # the clock was faster; the rest of the line is not this thread's any more
            if not isinstance(outcome, BaseException):
                snapshot = after(snapshot, outcome[0].writes)
            results.append((running, outcome))

    def _take_over(self, batch: Batch, results: deque[tuple[Running, Outcome]]) -> None:
        """Take finished calls of a thread into the batch, in their order."""
        while results:
            running, outcome = results.popleft()
            if isinstance(outcome, BaseException):
                self._refuse(batch, running, outcome)
            else:
                batch.accept(running, *outcome)

    # -- the commit --------------------------------------------------------------------------------------------------

    async def _commit(self, batch: Batch, *, release: bool) -> None:
        """Store what the finished calls did, tell the pages, then answer; if that fails, all of them have failed."""
        done = batch.done
        if not done:
            return
        batch.done = []
        try:
            await self._store(batch, done, release=release)
        except Exception as exc:
            batch.broken = exc
            for running, _, _ in done:
                self._calls.settle(running, running.call.failed(exc))
            return
        updates = [update for _, prepared, _ in done if prepared is not None for update in prepared.updates]
        if updates:
            self._turns.announce(updates)
        for running, prepared, answer in done:
            if prepared is not None:
                self._calls.committed(running.call, prepared.updates, running.started_at)
            self._calls.settle(running, answer)

    async def _store(self, batch: Batch, done: list[Done], *, release: bool) -> None:
        """Make one commit of all; answers that live elsewhere follow."""
        store, writes, is_here = batch.store, merged(done), batch.store is self._answers
        items = [
            item
            for running, prepared, answer in done
            for item in remembered(running.call, answer, self._idempotency_ttl_s, has_failed=prepared is None)
        ]
        if store.immediate is not None:
            store.immediate.apply(writes, items if is_here else ())
        elif writes:
            assert batch.lease is not None, "a shared store gives leases"
            commit_id = next(p.commit_id for _, p, _ in reversed(done) if p is not None and p.writes)
            await store.commit(
                batch.lease, writes, commit_id=commit_id, remember=items if is_here else (), release=release
            )
            batch.is_released = release
        elif items and is_here:
            await store.remember(items)
        batch.known.update((name, item.answer) for item in items for name in item.names)
        if items and not is_here:
            # NOTE: the state and the answer live in two stores; a crash between the two calls forgets the answer.
            await self._answers.remember(items)


def merged(done: Sequence[Done]) -> list[Write]:
    """Return what calls on one key changed together: at most one write."""
    writes = [write for _, prepared, _ in done if prepared is not None for write in prepared.writes]
    if len(writes) < 2:
        return writes
    if writes[-1].data is None and writes[0].before == NO_VERSION:
        return []  # it was made and deleted again: there is nothing to delete
    names = dict.fromkeys(name for write in writes for name in write.fields)
    return [writes[-1]._replace(before=writes[0].before, fields=tuple(names))]


def after(snapshot: Snapshot | None, writes: Sequence[Write]) -> Snapshot | None:
    """Return what is stored of a key after writes to it."""
    for write in writes:
        snapshot = None if write.data is None else Snapshot(write.version, write.data, write.shape)
    return snapshot


def worked(call: Call, turn: Turn) -> tuple[Prepared, Answer]:
    """Do all that can fail of a ``def`` event, its handler included; in the context of its request."""
    current_turn.set(turn)
    turn.holder = get_ident()
    state, arguments = call.prepare_now(turn)
    return concluded(call, turn, call.spec.func(state, **arguments))


def _handled(turn: Turn, call: Call, state: Any, arguments: dict[str, Any]) -> Any:
    """Run a handler in a worker thread, which holds the turn meanwhile."""
    turn.holder = get_ident()
    return call.spec.func(state, **arguments)


def _is_for_thread(running: Running) -> bool:
    call = running.call
    return call.spec.kind is Kind.THREAD and call.is_direct and call.typed is None


def _in_progress(group: Sequence[Running]) -> Running | None:
    """Return the call of a group that runs in the thread now."""
    return next((running for running in group if running.has_begun and not running.is_claimed), None)
