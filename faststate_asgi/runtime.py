"""Runs events and transactions: one turn each, handlers once, answers remembered.

A handler never runs in the request's task, so a client that leaves interrupts nothing; one that does not wait needs no
task at all. Whoever settles a call first, the handler or the clock, has settled it; the other one is ignored.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from threading import get_ident
from typing import Any, TypeAlias, TypeVar

from .batches import Batches, concluded
from .calls import (
    MAX_ANSWER_BYTES,
    Call,
    Deadlines,
    Running,
    is_cancelled,
    is_refusal,
    kept,
    known_answer,
    log_event,
    logger,
    names_to_keep,
    names_to_recall,
    recalled,
    remembered,
    reused,
    stopping,
    timed_out,
)
from .eager import Starter, Suspended
from .errors import FastStateError
from .events import Kind
from .generators import GENERATOR, Generators, StreamedCall
from .hub import Hub
from .keys import StateKey
from .mailboxes import busy
from .nested import taking_part, turn_of
from .plans import StatePlan
from .repeats import PATIENCE_S, Claim, answer_of_first, claimed
from .state import ReactiveState
from .stores.base import Answer, DatabaseSession, ImmediateStore, Snapshot, Store
from .turns import Entry, Prepared, Turn, Turns, current_turn, new_commit_id
from .updates import Update
from .workers import ENDS_OF_PROGRAMS, Workers, as_exception

T = TypeVar("T")
Concluded: TypeAlias = tuple[Prepared | Update | None, Answer]
"""What a call is to commit, and its answer."""

WORKER_THREADS = 40
TRANSACTION_WAIT_S = 30.0


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
        self._running: dict[str, Running] = {}
        self._calls: set[Running] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._workers = Workers(WORKER_THREADS, "faststate")
        self._deadlines = Deadlines(self._expired)
        self._starter = Starter(self._adopt)
        self._batches = Batches(
            turns,
            answers,
            self._starter,
            self._workers,
            own=self._own,
            deadlines=self._deadlines,
            committed=self._committed,
            settle=self._settle,
            idempotency_ttl_s=idempotency_ttl_s,
        )
        turns.mailboxes.serve = self._batches.serve
        self._generators = Generators(turns, answers, self._workers, self._own, self._count, idempotency_ttl_s)
        self.is_draining = False
        self.is_eager = True
        """Whether calls that need not wait run at once; both ways do the same, which tests check."""
        self.events_run = 0
        self._called_now: Call | None = None

    # -- events ------------------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many events are running or waiting."""
        return len(self._calls) + len(self._tasks)

    def _count(self, has_run: bool) -> None:
        self.events_run += has_run

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
        first = self._first(call) if self._running else None
        if first is not None:
            return first.wait()
        if current_turn.get() is not None:
            self.turns.refuse_nested(call.wanted)
        if call.is_alone:
            running = self._begun(call)
            task = asyncio.get_running_loop().create_task(self._run_alone(running))
            running.task = running.task or task  # an eager task may have begun the handler's own
            return running.waiters[0]
        store, mailboxes, key = self.turns.store_of(call.plan), self.turns.mailboxes, call.key
        is_free = key not in mailboxes.boxes
        if is_free:
            mailboxes.boxes[key] = None
            if call.is_direct and self.is_eager and store is self._answers and store.immediate is not None:
                return self._run_now(call, store, store.immediate)
        running = self._begun(call)
        try:
            mailboxes.line_up(key, running)
        except BaseException:
            self._forget(running)
            raise
        self._deadlines.add(running, call.spec.options.timeout_s)
        if is_free:
            mailboxes.leave(key)  # to whoever serves the line
        return running.waiters[0]

    def _first(self, call: Call) -> Running | None:
        """Return the call of the same request that runs already."""
        for name in call.names:
            first = self._running.get(name)
            if first is not None:
                if first.call.digest != call.digest:
                    raise reused()
                return first
        return None

    def _is_running(self, call: Call) -> bool:
        """Whether a request of the same click runs here."""
        return any(name in self._running for name in call.names) or self._generators.is_running(call)

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
        first = self._first(call)
        return await (answer_of_first(self._answers, call) if first is None else first.wait())

    def _begun(self, call: Call) -> Running:
        """Return a call that others of the same request can wait for."""
        running = Running(call, asyncio.get_running_loop().create_future())
        self._calls.add(running)
        for name in call.names:
            self._running[name] = running
        return running

    def _forget(self, running: Running) -> None:
        """Let later repetitions find the answer in the store."""
        self._deadlines.drop(running, running.call.spec.options.timeout_s)
        self._calls.discard(running)
        for name in running.call.names:
            if self._running.get(name) is running:
                del self._running[name]

    def _settle(self, running: Running, answer: Answer) -> None:
        """Give the answer to everybody who waits, once."""
        self._forget(running)
        claim = running.call.claim
        if claim is not None and claim.is_held:
            self._own(claim.give_back())
        for waiter in running.waiters:
            if not waiter.done():
                waiter.set_result(answer)

    def _committed(self, call: Call, updates: Sequence[Update], started_at: float) -> None:
        """Count and log an event whose changes are stored."""
        self.events_run += 1
        if updates:
            call.committed(updates)
        if logger.isEnabledFor(logging.INFO):
            log_event(call, updates, time.monotonic() - started_at)

    def event_of(self, task: asyncio.Task[Any] | None) -> str | None:
        """Return which event a task runs, None if it runs none; may be asked from another thread."""
        return None if task is None else self._batches.event_of(task) or self._event_of(task)

    def _event_of(self, task: asyncio.Task[Any]) -> str | None:
        if self._called_now is not None:
            return self._called_now.spec.path
        name = task.get_name()
        if name.startswith(GENERATOR):
            return name.removeprefix(GENERATOR)
        return next((running.call.spec.path for running in list(self._calls) if running.task is task), None)

    def _own(self, coroutine: Coroutine[Any, Any, None], name: str | None = None) -> None:
        """Run a coroutine in a task that nobody else can cancel."""
        self._adopt(asyncio.get_running_loop().create_task(coroutine, name=name))

    def _adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        self._committed(call, updates, at)

    def _failed_now(self, call: Call, turn: Turn, now: ImmediateStore, exc: BaseException) -> Answer:
        """Return the answer of a failed call; that its handler ran is remembered."""
        answer = call.failed(exc)
        if not is_refusal(exc):
            now.apply((), remembered(call, answer, self._idempotency_ttl_s, has_failed=True))
        turn.release_now()
        return answer

    def _go_on(self, call: Call, turn: Turn, now: ImmediateStore, suspended: Suspended) -> Awaitable[Answer]:
        """Wait for a handler that has begun."""
        running = self._begun(call)
        running.begin()
        running.task = turn.holder = suspended.task
        self._deadlines.add(running, call.spec.options.timeout_s)
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
        running = self._begun(call)
        self._deadlines.add(running, call.spec.options.timeout_s)
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
        self._settle(running, answer)

    def _expired(self, running: Running) -> None:
        """End the waiting of a call that did not begin in time, or settle one that has run too long."""
        call = running.call
        if not running.has_begun:
            if running.begin() and running.claim():
                if running.settle is not None:
                    running.settle(busy())
                else:
                    self._settle(running, call.failed(busy()))
            return
        if running.settle is not None:
            if running.claim():
                running.settle(timed_out(call))
        elif running.outcome is not None and not running.outcome.done():
            running.outcome.set_exception(timed_out(call))
        else:
            return  # its thread is watched by the one who serves its line
        # The turn passes on; what the handler still does is ignored.
        if running.task is not None:
            running.task.cancel()

    # -- alone: several keys, or a commit that is not only ours ------------------------------------------------------

    async def _run_alone(self, running: Running) -> None:
        """Run a call in turns of its own, and settle it."""
        call = running.call
        try:
            answer = await claimed(call)
            if answer is not None:
                self._settle(running, answer)
                return
            turn = await self.turns.take(call.wanted, call.spec.options.timeout_s)
        except Exception as exc:
            self._settle(running, call.failed(exc))
            return
        token = current_turn.set(turn)
        running.begin()
        try:
            answer = None if call.claim is not None else await recalled(self._answers, call)
            if answer is None:
                answer = await self._run_in(turn, running)
        except Exception as exc:
            answer = call.failed(exc)
        finally:
            current_turn.reset(token)
            await self._released(turn)
        if running.claim():
            self._settle(running, answer)

    async def _released(self, turn: Turn) -> None:
        try:
            await turn.release()
        except FastStateError as exc:
            logger.warning("a turn could not be given back: %s", exc)

    async def _run_in(self, turn: Turn, running: Running) -> Answer:
        """Run a handler in its turn, and commit. Errors of the handler are answers too."""
        call = running.call
        running.outcome = asyncio.get_running_loop().create_future()
        self._deadlines.add(running, call.spec.options.timeout_s)
        handling = asyncio.get_running_loop().create_task(_with_errors(self._handled(call, turn)))
        running.task = handling
        self._adopt(handling)
        try:
            await asyncio.wait([handling, running.outcome], return_when=asyncio.FIRST_COMPLETED)
            if running.outcome.done():
                handling.add_done_callback(_ignore)
                if turn.session is not None:
                    turn.session.abandon()
                await running.outcome
            prepared, answer = await handling
        except BaseException as exc:
            if is_cancelled():
                raise
            return await self._failed(call, turn, exc)
        self._deadlines.drop(running, call.spec.options.timeout_s)
        await self._commit(call, turn, prepared, answer, running.started_at)
        return answer

    async def _handled(self, call: Call, turn: Turn) -> tuple[Prepared, Answer]:
        turn.holder = asyncio.current_task()
        state, arguments = await call.prepare(turn)
        func, session = call.spec.func, turn.session
        if call.spec.kind is Kind.THREAD:
            context = copy_context()

            def work() -> tuple[Prepared, Answer]:
                turn.holder = get_ident()
                return concluded(
                    call, turn, func(state, **arguments) if session is None else session.call(func, state, **arguments)
                )

            return await self._workers.run(lambda: context.run(work))
        result = func(state, **arguments)
        if call.spec.kind is Kind.ASYNC:
            result = await result
        if session is not None:
            await session.flush()
        return concluded(call, turn, result)

    async def _commit(self, call: Call, turn: Turn, prepared: Prepared, answer: Answer, started_at: float) -> None:
        items = remembered(call, answer, self._idempotency_ttl_s)
        if turn.store is self._answers:
            await turn.commit(prepared, items)
        else:
            # NOTE: the state and the answer live in two stores; a crash between the two calls forgets the answer.
            await turn.commit(prepared)
            if items:
                await self._answers.remember(items)
        self._committed(call, prepared.updates, started_at)

    async def _failed(self, call: Call, turn: Turn, exc: BaseException) -> Answer:
        """Return the answer of a handler that failed, remembered before others take the turn."""
        if turn.session is not None:
            await _undo(turn.session, exc)
            exc = turn.session.explained(exc)
        answer = call.failed(exc)
        items = () if is_refusal(exc) else remembered(call, answer, self._idempotency_ttl_s, has_failed=True)
        try:
            if items:
                await self._answers.remember(items)
        except FastStateError as unavailable:
            logger.warning("the answer of %s could not be remembered: %s", call.spec.path, unavailable)
        return answer

    # -- transactions ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(
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
        outer = turn_of(self.turns, None if self._starter.is_first_step(task) else task, wanted)
        if outer is not None:
            with taking_part(outer, wanted) as states:
                yield states
            return
        turn = await self.turns.take(wanted, TRANSACTION_WAIT_S)
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
            await self._shielded(turn, self._ended(turn, prepared))
        finally:
            current_turn.reset(token)
            turn.close()

    @staticmethod
    async def _ended(turn: Turn, prepared: Prepared) -> None:
        """Commit and give the turn back, one after the other also for a caller who is cancelled meanwhile."""
        try:
            await turn.commit(prepared)
        finally:
            await turn.release()

    async def _shielded(self, turn: Turn, coroutine: Coroutine[Any, Any, None]) -> None:
        """Finish a coroutine even if the caller is cancelled meanwhile."""
        if not turn.store.is_shared:
            await coroutine  # it does not wait, so nothing can cancel it
            return
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Refuse new events and wait until those that run have ended, at most ``timeout_s``."""
        self.is_draining = True
        deadline = time.monotonic() + timeout_s
        while (waited := self._unfinished()) and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.wait(waited, timeout=left_s)
        self.give_up()

    def give_up(self) -> None:
        """Answer 503 for every call that still runs, and cancel what can be cancelled."""
        for running in list(self._calls):
            running.begin()
            running.claim()
            self._settle(running, running.call.failed(stopping()))
        for task in self._all_tasks():
            task.cancel()

    def _all_tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks of calls and everything else that runs."""
        return [*self._tasks, *(running.task for running in self._calls if running.task is not None)]

    def _unfinished(self) -> list[asyncio.Future[Any]]:
        """Return what has to end before the process may."""
        return [*self._all_tasks(), *(waiter for running in self._calls for waiter in running.waiters)]

    async def aclose(self) -> None:
        """End what is still running; handlers in threads keep their thread until they return."""
        self._deadlines.clear()
        await self._starter.aclose()
        tasks = self._all_tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        self.close_workers()

    def close_workers(self) -> None:
        """Let idle threads end; one that is busy ends when its handler returns."""
        self._workers.close()


async def _with_errors(handled: Awaitable[T]) -> T:
    """Return what a handler returns; the end of a program, which its task would hand on to the loop, is an error."""
    try:
        return await handled
    except ENDS_OF_PROGRAMS as exc:
        raise as_exception(exc) from exc


def _ignore(task: asyncio.Task[Any]) -> None:
    """Take what a handler raises after its time is over, which nobody waits for."""
    if not task.cancelled():
        task.exception()


async def _undo(session: DatabaseSession, exc: BaseException) -> None:
    """Roll the handler's database session back before anything else is stored, which its locks could hold up."""
    if not isinstance(exc, Exception):
        session.abandon()  # a thread cannot be cancelled
    await session.end()
