"""Events with a turn of their own: they change several keys, or their commit is not only theirs.

The handler runs in a task of its own; the turn is given back when the handler has ended or its time is over, also if
it does not stop then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import copy_context
from threading import get_ident
from typing import Any, TypeVar

from .calls import Call, concluded, is_cancelled, is_refusal, logger, recalled, remembered
from .errors import FastStateError
from .events import Kind
from .repeats import claimed
from .running import Running, RunningCalls
from .stores.base import Answer, DatabaseSession, Store
from .turns import Prepared, Turn, Turns, current_turn
from .workers import ENDS_OF_PROGRAMS, Workers, as_exception

T = TypeVar("T")


class LoneCalls:
    """Runs calls that share neither turn nor commit with others; lives as long as the runtime.

    Args:
        turns: gives out turns.
        answers: the store of idempotency answers.
        workers: run ``def`` handlers.
        calls: those that run.
        idempotency_ttl_s: how long an answer is remembered.
    """

    def __init__(
        self, turns: Turns, answers: Store, workers: Workers, calls: RunningCalls, idempotency_ttl_s: float
    ) -> None:
        self._turns, self._answers, self._workers, self._calls = turns, answers, workers, calls
        self._idempotency_ttl_s = idempotency_ttl_s

    def run(self, call: Call) -> Awaitable[Answer]:
        """Run a call, and return its answer."""
        running = self._calls.add(call)
        task = asyncio.get_running_loop().create_task(self._run(running))
        running.task = running.task or task  # an eager task may have begun the handler's own
        return running.waiters[0]

    async def _run(self, running: Running) -> None:
        """Take the turns of a call, run it in them, and settle it."""
        call = running.call
        try:
            answer = await claimed(call)
            if answer is not None:
                self._calls.settle(running, answer)
                return
            turn = await self._turns.take(call.wanted, call.spec.options.timeout_s)
        except Exception as exc:
            self._calls.settle(running, call.failed(exc))
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
            await _released(turn)
        if running.claim():
            self._calls.settle(running, answer)

    async def _run_in(self, turn: Turn, running: Running) -> Answer:
        """Run a handler in its turn, and commit. Errors of the handler are answers too."""
        call, calls = running.call, self._calls
        running.outcome = asyncio.get_running_loop().create_future()
        calls.deadlines.add(running)
        handling = asyncio.get_running_loop().create_task(_with_errors(self._handled(call, turn)))
        running.task = handling
        calls.adopt(handling)
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
        calls.deadlines.drop(running)
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
        self._calls.committed(call, prepared.updates, started_at)

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


async def _released(turn: Turn) -> None:
    try:
        await turn.release()
    except FastStateError as exc:
        logger.warning("a turn could not be given back: %s", exc)


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
