"""Generator events: each ``yield`` ends a transaction; what was yielded goes to everybody who reads along."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from threading import get_ident
from typing import Any, TypeVar

from .bonds import bind, bond_of
from .calls import Call, first_of, is_cancelled, recalled, remembered, stopping
from .errors import TurnTimeoutError
from .events import EventSpec, Kind
from .keys import StateKey
from .repeats import RUNNING, answer_of_other, claimed, interrupted, running_note
from .responses import error_frame
from .running import RunningCalls
from .state import ReactiveState
from .stores.base import Answer, DatabaseSession, Store
from .turns import Prepared, Turn, Turns, current_turn
from .workers import ENDS_OF_PROGRAMS, Workers, as_exception

logger = logging.getLogger("faststate.events")
T = TypeVar("T")

MAX_STREAMED_BYTES = 1 << 20
GENERATOR = "faststate generator "
"""How the names of the tasks of generator events begin."""


class StreamedCall:
    """A generator event that is running; any number of responses read its bodies."""

    __slots__ = ("_bodies", "_first", "_news", "_size", "digest", "failure", "headers", "is_done", "readers")

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.is_done = False
        self.failure: Answer | None = None
        self.headers: tuple[tuple[bytes, bytes], ...] | None = None
        self.readers = 0
        self._bodies: deque[bytes] = deque()
        self._first = 0
        self._size = 0
        self._news: asyncio.Future[None] | None = None

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody reads any more."""
        return self.readers == 0

    @property
    def is_empty(self) -> bool:
        """Whether there was no body yet."""
        return not self._bodies

    def put(self, body: bytes) -> None:
        """Add a body; the oldest go when too much is kept, newer ones hold newer values."""
        if body:
            self._bodies.append(body)
            self._size += len(body)
            while self._size > MAX_STREAMED_BYTES and len(self._bodies) > 1:
                self._size -= len(self._bodies.popleft())
                self._first += 1
            self._wake()

    def end(self) -> None:
        """Tell readers that there will be no more."""
        self.is_done = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = None

    async def read(self) -> AsyncIterator[bytes]:
        """Yield every body, from the first that is kept to the end."""
        position = 0
        while True:
            position = max(position, self._first)
            while position < self._first + len(self._bodies):
                yield self._bodies[position - self._first]
                position = max(position + 1, self._first)
            if self.is_done:
                return
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._news)

    def whole(self) -> bytes | None:
        """Return all bodies as one, None if some are gone."""
        return b"".join(self._bodies) if self._first == 0 else None


class Generators:
    """Runs generator events; lives as long as the runtime.

    Args:
        turns: gives out turns.
        answers: the store of idempotency answers.
        workers: run generators that are not asynchronous.
        calls: those that run.
        idempotency_ttl_s: how long an answer is remembered.
    """

    def __init__(
        self,
        turns: Turns,
        answers: Store,
        workers: Workers,
        calls: RunningCalls,
        idempotency_ttl_s: float,
    ) -> None:
        self.turns = turns
        self._answers, self._workers, self._calls = answers, workers, calls
        self._idempotency_ttl_s = idempotency_ttl_s
        self._streamed: dict[str, StreamedCall] = {}

    async def stream(self, call: Call) -> StreamedCall:
        """Run a generator event once: each ``yield`` ends a transaction.

        A repetition of the request reads along; one that comes later gets the answer that was remembered.

        Args:
            call: the event.

        Raises:
            ArgumentError: another request under the same idempotency key.
        """
        known = self.first(call)
        if known is not None:
            return known
        streamed = StreamedCall(call.digest)
        for name in call.names:
            self._streamed[name] = streamed
        self._calls.own(self._run_generator(call, streamed), GENERATOR + call.spec.path)
        return streamed

    @staticmethod
    def event_of(task: asyncio.Task[Any]) -> str | None:
        """Return which generator event a task runs, None if it runs none."""
        name = task.get_name()
        return name.removeprefix(GENERATOR) if name.startswith(GENERATOR) else None

    def is_running(self, call: Call) -> bool:
        """Whether a request of the same click runs here."""
        return any(name in self._streamed for name in call.names)

    def first(self, call: Call) -> StreamedCall | None:
        """Return the call of the same request that runs already.

        Raises:
            ArgumentError: another request under the same idempotency key.
        """
        return first_of(call, self._streamed)

    def _forget(self, call: Call, streamed: StreamedCall) -> None:
        for name in call.names:
            if self._streamed.get(name) is streamed:
                del self._streamed[name]

    async def _run_generator(self, call: Call, streamed: StreamedCall) -> None:
        segments: _Segments | None = None
        has_run = False
        try:
            known = await claimed(call)
            if known is not None:
                streamed.failure = await self._settled(call, known)
                return
            while segments is None or not segments.is_done:
                if segments is not None and streamed.is_abandoned and call.spec.options.on_disconnect == "stop":
                    break
                turn = await self.turns.take(call.wanted, call.spec.options.timeout_s)
                try:
                    if segments is None:
                        known = await recalled(self._answers, call)
                        if known is not None:
                            await turn.release()
                            streamed.failure = await self._settled(call, known)
                            return
                        state, arguments = await call.prepare(turn)
                        states = {key: entry.state for key, entry in turn.entries.items()}
                        generator = call.spec.func(state, **arguments)
                        segments = _Segments(call.spec, generator, states, self._workers, turn.session)
                        has_run = True
                    else:
                        turn.session = segments.session
                        self._reload(turn, call, segments.states)
                    await self._run_segment(call, turn, segments, streamed)
                    if call.claim is not None:
                        await call.claim.give_back()  # the note of this step keeps others out from now on
                finally:
                    await turn.release()
        except (Exception, *ENDS_OF_PROGRAMS) as exc:
            self._fail_stream(call, streamed, exc)
        except asyncio.CancelledError:
            self._fail_stream(call, streamed, interrupted() if has_run else stopping())
            raise
        finally:
            if segments is not None:
                await segments.aclose()
                if segments.session is not None:
                    await segments.session.end()
            await self._end_stream(call, streamed, has_run=has_run)
            if call.claim is not None:
                await call.claim.give_back()

    async def _settled(self, call: Call, known: Answer) -> Answer:
        """Return the answer that was found, or that of the other process whose note it is."""
        return known if known.status != RUNNING else await answer_of_other(self._answers, call, known)

    def _fail_stream(self, call: Call, streamed: StreamedCall, exc: BaseException) -> None:
        """Answer with the failure if nothing was sent yet, else tell the page in the stream."""
        answer = call.failed(exc)
        if streamed.is_empty:
            streamed.failure = answer
        elif answer.status == 200:
            streamed.put(answer.body or b"")
        else:
            problem: dict[str, Any] = {"event": "", "fields": {}, **json.loads(answer.body or b"{}")}
            del problem["type"]
            streamed.put(error_frame(problem))

    async def _end_stream(self, call: Call, streamed: StreamedCall, *, has_run: bool) -> None:
        """Remember what a generator answered, and let its readers go."""
        self._calls.events_run += has_run
        try:
            if has_run and call.names:
                headers = streamed.headers or call.stream_headers()
                answer = streamed.failure or Answer(call.digest, 200, headers, streamed.whole())
                await self._answers.remember(remembered(call, answer, self._idempotency_ttl_s))
        finally:
            self._forget(call, streamed)
            streamed.end()

    async def _run_segment(self, call: Call, turn: Turn, segments: _Segments, streamed: StreamedCall) -> None:
        """Run the generator to its next ``yield``, and commit."""
        token = current_turn.set(turn)
        turn.holder = asyncio.current_task()
        try:
            async with asyncio.timeout(call.spec.options.timeout_s):
                yielded = await segments.step()
                if turn.session is not None:
                    await turn.session.flush()
        except TimeoutError as exc:
            if segments.raised is exc:
                raise
            if turn.session is not None:
                turn.session.abandon()
            message = f"The event took longer than {call.spec.options.timeout_s:g} seconds for one step"
            raise TurnTimeoutError(message) from None
        except Exception as exc:
            known = exc if turn.session is None else turn.session.explained(exc)
            if known is exc:
                raise
            raise known from exc
        finally:
            current_turn.reset(token)
        prepared = turn.prepare()
        body = call.emit(prepared, yielded)
        await self._commit_step(turn, call, prepared, segments)
        call.committed(prepared.updates)
        if streamed.headers is None:
            streamed.headers = call.stream_headers()
        streamed.put(body)

    async def _commit_step(self, turn: Turn, call: Call, prepared: Prepared, segments: _Segments) -> None:
        """Commit one step; other processes are told that the generator runs."""
        segments.steps += 1
        note = running_note(call, segments.steps, self._idempotency_ttl_s) if self._answers.is_shared else ()
        if turn.store is self._answers:
            await turn.commit(prepared, note)
            return
        if note:
            await self._answers.remember(note)
        await turn.commit(prepared)

    def _reload(self, turn: Turn, call: Call, states: dict[StateKey, ReactiveState]) -> None:
        """Give the states that a generator holds the newest stored values."""
        for plan, key in call.wanted:
            entry, held = turn.load(plan, key, may_create=True), states[key]
            object.__setattr__(held, "__dict__", entry.state.__dict__)
            bind(held, bond_of(entry.state))
            entry.state = held


class _Segments:
    """A running generator of either kind, stepped from one ``yield`` to the next."""

    def __init__(
        self,
        spec: EventSpec,
        generator: Any,
        states: dict[StateKey, ReactiveState],
        workers: Workers,
        session: DatabaseSession | None,
    ) -> None:
        is_async = spec.kind is Kind.ASYNC_GENERATOR
        self._async_generator: AsyncGenerator[Any, None] | None = generator if is_async else None
        self._generator: Generator[Any, None, Any] = generator  # unless it is asynchronous
        self._workers = workers
        self._context = contextvars.copy_context()
        self.states = states
        self.session = session
        self.is_done = False
        self.steps = 0
        self.raised: BaseException | None = None

    async def step(self) -> Any:
        """Return what the generator yields next, or what it returned at its end."""
        try:
            if self._async_generator is not None:
                return await anext(self._async_generator)
            self._context.run(current_turn.set, current_turn.get())
            value, self.is_done = await self._in_thread(self._next)
            return value
        except StopAsyncIteration:
            self.is_done = True
            return None
        except (Exception, *ENDS_OF_PROGRAMS) as exc:
            self.raised, self.is_done = exc, True
            raise
        except (asyncio.CancelledError, GeneratorExit) as exc:
            if is_cancelled():
                raise
            self.is_done = True
            raise as_exception(exc) from exc

    def _in_thread(self, step: Callable[[], T]) -> asyncio.Future[T]:
        session = self.session
        return self._workers.run(step if session is None else lambda: session.call(step))

    def _next(self) -> tuple[Any, bool]:
        try:
            return self._context.run(self._held_next), False
        except StopIteration as stop:
            return stop.value, True

    def _held_next(self) -> Any:
        turn = current_turn.get()
        assert turn is not None, "steps belong inside a turn"
        turn.holder = get_ident()
        return next(self._generator)

    async def aclose(self) -> None:
        """Close the generator where it stands; its ``finally`` blocks run."""
        try:
            if self._async_generator is not None:
                await self._async_generator.aclose()
            else:
                await self._in_thread(self._generator.close)
        except (Exception, *ENDS_OF_PROGRAMS):
            logger.exception("a generator event failed while it was closed")
        self.is_done = True
