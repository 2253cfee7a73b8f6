"""Runs events and transactions: one turn each, handlers once, answers remembered.

A handler runs in a task that the engine owns, never in the request's, so a client that leaves interrupts nothing.
Whoever settles a call first, the handler or the clock, has settled it; the other one is ignored.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from starlette.exceptions import HTTPException

from .echo import REMEMBERED_S, Typed, is_overtaken
from .errors import ArgumentError, FastStateError, OverloadedError, TurnTimeoutError
from .events import EventSpec, Kind
from .hub import Hub
from .keys import StateKey
from .registry import StatePlan
from .responses import error_frame
from .state import ReactiveState, bind, bond_of
from .stores.base import Answer, DatabaseSession, Remember, Store
from .turns import Entry, Prepared, Turn, Turns, current_turn
from .updates import Update
from .workers import Workers

logger = logging.getLogger("faststate.events")
T = TypeVar("T")

WORKER_THREADS = 40
MAX_ANSWER_BYTES = 16 * 1024
REFUSALS = frozenset({401, 403, 413, 422, 429, 503})
MAX_STREAMED_BYTES = 1 << 20
TRANSACTION_WAIT_S = 30.0
_GENERATOR = "faststate generator "


class Call(Protocol):
    """One event to run, bound and checked as far as that needs no state; ``dispatch.py`` implements it.

    ``wanted`` are all states that change together, the event's own first. ``names`` are those under which the answer is
    remembered, empty for none; ``owner`` is whose answers they are. ``typed`` numbers the requests of a tab for one field.
    """

    plan: StatePlan
    spec: EventSpec
    key: StateKey
    wanted: list[tuple[StatePlan, StateKey]]
    names: tuple[str, ...]
    digest: bytes
    owner: str
    typed: Typed | None

    def order_name(self) -> str:
        """Return the name under which the newest of a tab's requests for one field is remembered."""
        ...

    async def prepare(self, turn: Turn) -> tuple[ReactiveState, dict[str, Any]]:
        """Load and check the states, and return the handler's own and its arguments."""
        ...

    def respond(self, prepared: Prepared, result: Any) -> Answer:
        """Return the answer of what changed and what was returned; raise for what no page can show."""
        ...

    def emit(self, prepared: Prepared, yielded: Any) -> bytes:
        """Return the body of what changed and what a generator yielded."""
        ...

    def failed(self, exc: BaseException) -> Answer:
        """Return the answer of an exception."""
        ...

    def late_names(self) -> tuple[str, ...]:
        """Return more names of the answer, known after the handler has run (it may have made a session)."""
        ...

    def stream_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers of a generator's response; asked once, when the first body is ready."""
        ...

    def committed(self, updates: list[Update]) -> None:
        """Hear what was committed."""
        ...


class _Running:
    """A call that has begun: repetitions of its request wait here for its answer.

    It is also the token that handler and timeout compete for: ``claim`` is true once.
    """

    __slots__ = ("call", "is_claimed", "started_at", "task", "timer", "turn", "waiters")

    def __init__(self, call: Call, waiter: asyncio.Future[Answer]) -> None:
        self.call = call
        self.waiters = [waiter]
        self.is_claimed = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.turn: Turn | None = None
        self.started_at = 0.0

    def claim(self) -> bool:
        """Claim the call; false if it was claimed before."""
        if self.is_claimed:
            return False
        self.is_claimed = True
        if self.timer is not None:
            self.timer.cancel()
        return True


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
        self._running: dict[str, _Running] = {}
        self._streamed: dict[str, StreamedCall] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._workers = Workers(WORKER_THREADS, "faststate")
        self._calls: set[_Running] = set()
        self.is_draining = False
        self.events_run = 0

    # -- events ------------------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many events are running or waiting."""
        return len(self._calls) + len(self._tasks)

    async def run(self, call: Call) -> Answer:
        """Run one event once and return its answer; a repetition of a request gets the first one's.

        Raises:
            ArgumentError: another request under the same idempotency key.
        """
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        for name in call.names:
            first = self._running.get(name)
            if first is not None:
                if first.call.digest != call.digest:
                    raise _reused()
                first.waiters.append(waiter)
                return await waiter
        running = _Running(call, waiter)
        self._calls.add(running)
        for name in call.names:
            self._running[name] = running
        running.task = asyncio.get_running_loop().create_task(self._run_remembered(running))
        return await waiter

    def _settle(self, running: _Running, answer: Answer) -> None:
        """Give the answer to everybody who waits, once; later repetitions find it in the store."""
        self._calls.discard(running)
        for name in running.call.names:
            if self._running.get(name) is running:
                del self._running[name]
        for waiter in running.waiters:
            if not waiter.done():
                waiter.set_result(answer)

    def event_of(self, task: asyncio.Task[Any] | None) -> str | None:
        """Return which event a task runs, None if it runs none; may be asked from another thread."""
        if task is None:
            return None
        if task in self._tasks:
            name = task.get_name()
            return name.removeprefix(_GENERATOR) if name.startswith(_GENERATOR) else None
        return next((running.call.spec.path for running in list(self._calls) if running.task is task), None)

    def _own(self, coroutine: Coroutine[Any, Any, None], name: str | None = None) -> None:
        """Run a coroutine in a task that nobody else can cancel."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_remembered(self, running: _Running) -> None:
        """Settle a call with a remembered answer, or run it."""
        call = running.call
        try:
            answer = None if self._answers.is_shared or not call.names else await self._recalled(call)
            if answer is None:
                await self._run_once(running)
            else:
                self._settle(running, answer)
        except Exception as exc:
            self._settle(running, call.failed(exc))

    async def _recalled(self, call: Call) -> Answer | None:
        """Return the answer that a call's request got before, None if it is new.

        With a shared answers store this is asked inside the turn: another process may just be running the same request.
        """
        if not call.names:
            return None
        answer = await self._answers.recall(call.names)
        return answer if answer is None or answer.digest == call.digest else call.failed(_reused())

    async def _is_overtaken(self, call: Call, typed: Typed) -> bool:
        """Whether a newer request of the same tab for the same field has run."""
        newest = await self._answers.recall((call.order_name(),))
        return newest is not None and is_overtaken(typed.number, newest.digest)

    async def _run_once(self, running: _Running) -> None:
        """Take the turn, run the handler, commit, settle. Errors of the handler are answers too."""
        call = running.call
        turn = await self.turns.take(call.wanted, call.spec.options.timeout_s)
        token = current_turn.set(turn)
        running.turn = turn
        loop = asyncio.get_running_loop()
        running.started_at = loop.time()
        running.timer = loop.call_later(call.spec.options.timeout_s, self._expired, running)
        try:
            if self._answers.is_shared and (known := await self._recalled(call)) is not None:
                running.claim()
                await turn.release()
                self._settle(running, known)
                return
            if call.typed is not None and await self._is_overtaken(call, call.typed):
                running.claim()
                await turn.release()
                self._settle(running, Answer(call.digest, 204))
                return
            try:
                state, arguments = await call.prepare(turn)
                if call.spec.kind is Kind.THREAD:
                    prepared, answer = await self._in_thread(call, turn, state, arguments)
                else:
                    result = call.spec.func(state, **arguments)
                    if call.spec.kind is Kind.ASYNC:
                        result = await result
                    if turn.session is not None:
                        await turn.session.flush()
                    prepared = turn.prepare()
                    answer = call.respond(prepared, result)
            except BaseException as exc:
                if running.claim():
                    await self._fail(running, turn, exc)
                return
            if not running.claim():
                return
            remembered = self._remembered(call, answer)
            if turn.store is self._answers and turn.now is not None and turn.session is None:
                turn.commit_now(turn.now, prepared, remembered)
            elif turn.store is self._answers:
                await turn.commit(prepared, remembered)
            else:
                # NOTE: the state and the answer live in two stores; a crash between the two calls forgets the answer.
                await turn.commit(prepared)
                if remembered:
                    await self._answers.remember(remembered)
            self.events_run += 1
            call.committed(prepared.updates)
            if logger.isEnabledFor(logging.INFO):
                self._log(running, prepared)
            self._settle(running, answer)
        finally:
            current_turn.reset(token)
            if turn.is_active:
                await turn.release()

    async def _fail(self, running: _Running, turn: Turn, exc: BaseException) -> None:
        """Settle a call whose handler failed: nothing is changed, the answer is remembered before others take the turn."""
        if turn.session is not None:
            await self._undo(turn.session, exc)
            exc = turn.session.explained(exc)
        if not isinstance(exc, Exception):
            exc = OverloadedError("The server is stopping", headers={"Retry-After": "1"})
        answer = running.call.failed(exc)
        try:
            await self._remember_failure(running.call, exc, answer)
            await turn.release()
        except FastStateError as unavailable:
            logger.warning("the answer of %s could not be remembered: %s", running.call.spec.path, unavailable)
        finally:
            self._settle(running, answer)

    async def _undo(self, session: DatabaseSession, exc: BaseException) -> None:
        """Roll the handler's database session back before anything else is stored, which its locks could hold up."""
        if not isinstance(exc, Exception):
            session.abandon()  # a thread cannot be cancelled
        await session.end()

    async def _in_thread(
        self, call: Call, turn: Turn, state: ReactiveState, arguments: dict[str, Any]
    ) -> tuple[Prepared, Answer]:
        """Call a handler in a worker thread, and make everything there that can fail before the commit."""

        def work() -> tuple[Prepared, Answer]:
            if turn.session is None:
                result = call.spec.func(state, **arguments)
            else:
                result = turn.session.call(call.spec.func, state, **arguments)
            prepared = turn.prepare()
            return prepared, call.respond(prepared, result)

        context = contextvars.copy_context()
        return await self._workers.run(lambda: context.run(work))

    def _expired(self, running: _Running) -> None:
        """Settle a call whose time is over: its turn passes on, what its handler still does is ignored."""
        call, turn = running.call, running.turn
        if turn is None or not running.claim():
            return
        logger.error("event %s on %s timed out", call.spec.path, call.plan.name)
        exc = TurnTimeoutError(f"The event took longer than {call.spec.options.timeout_s:g} seconds")
        if turn.session is not None:
            turn.session.abandon()
        self._own(self._fail(running, turn, exc))
        if running.task is not None and call.spec.kind is Kind.ASYNC:
            running.task.cancel()

    async def _remember_failure(self, call: Call, exc: BaseException, answer: Answer) -> None:
        """Remember the answer of a handler that ran and failed; refusals are not remembered."""
        is_refusal = isinstance(exc, HTTPException) and exc.status_code in REFUSALS
        if call.names and not is_refusal:
            await self._answers.remember(self._remembered_answer(call, answer))

    def _remembered(self, call: Call, answer: Answer) -> tuple[Remember, ...]:
        if call.typed is not None:
            newest = Remember((call.order_name(),), Answer(call.typed.number.encode(), 204), REMEMBERED_S)
            return (*self._remembered_answer(call, answer), newest)
        return self._remembered_answer(call, answer)

    def _remembered_answer(self, call: Call, answer: Answer) -> tuple[Remember, ...]:
        if not call.names:
            return ()
        if answer.body is not None and len(answer.body) > MAX_ANSWER_BYTES:
            answer = Answer(answer.digest, answer.status, answer.headers, None)
        late = call.late_names()
        names = call.names if not late or late[0] in call.names else (*call.names, *late)
        return (Remember(names, answer, self._idempotency_ttl_s, call.owner),)

    def _log(self, running: _Running, prepared: Prepared) -> None:
        call = running.call
        duration_ms = (asyncio.get_running_loop().time() - running.started_at) * 1000
        version = prepared.updates[0].version if prepared.updates else "-"
        logger.info(
            "event %s key=%s version=%s %.1f ms",
            call.spec.path,
            loggable(call.key),
            version,
            duration_ms,
            extra={"event": call.spec.path, "key": loggable(call.key), "version": version, "duration_ms": duration_ms},
        )

    # -- generators --------------------------------------------------------------------------------------------------

    async def stream(self, call: Call) -> StreamedCall:
        """Run a generator event once: each ``yield`` ends a transaction.

        A repetition of the request reads along; one that comes later gets the answer that was remembered.

        Args:
            call: the event.

        Raises:
            ArgumentError: another request under the same idempotency key.
        """
        for name in call.names:
            known = self._streamed.get(name)
            if known is not None:
                if known.digest != call.digest:
                    raise _reused()
                return known
        streamed = StreamedCall(call.digest)
        for name in call.names:
            self._streamed[name] = streamed
        self._own(self._run_generator(call, streamed), _GENERATOR + call.spec.path)
        return streamed

    def _forget(self, call: Call, streamed: StreamedCall) -> None:
        for name in call.names:
            if self._streamed.get(name) is streamed:
                del self._streamed[name]

    async def _run_generator(self, call: Call, streamed: StreamedCall) -> None:
        segments: _Segments | None = None
        has_run = False
        try:
            while segments is None or not segments.is_done:
                if segments is not None and streamed.is_abandoned and call.spec.options.on_disconnect == "stop":
                    break
                turn = await self.turns.take(call.wanted, call.spec.options.timeout_s)
                try:
                    if segments is None:
                        streamed.failure = await self._recalled(call)
                        if streamed.failure is not None:
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
                finally:
                    await turn.release()
        except Exception as exc:
            self._fail_stream(call, streamed, exc)
        finally:
            if segments is not None:
                await segments.aclose()
                if segments.session is not None:
                    await segments.session.end()
            await self._end_stream(call, streamed, has_run=has_run)

    def _fail_stream(self, call: Call, streamed: StreamedCall, exc: Exception) -> None:
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
        self.events_run += has_run
        try:
            if has_run and call.names:
                headers = streamed.headers or call.stream_headers()
                answer = streamed.failure or Answer(call.digest, 200, headers, streamed.whole())
                await self._answers.remember(self._remembered(call, answer))
        finally:
            self._forget(call, streamed)
            streamed.end()

    async def _run_segment(self, call: Call, turn: Turn, segments: _Segments, streamed: StreamedCall) -> None:
        """Run the generator to its next ``yield``, and commit."""
        token = current_turn.set(turn)
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
        await turn.commit(prepared)
        call.committed(prepared.updates)
        if streamed.headers is None:
            streamed.headers = call.stream_headers()
        streamed.put(body)

    def _reload(self, turn: Turn, call: Call, states: dict[StateKey, ReactiveState]) -> None:
        """Give the states that a generator holds the newest stored values."""
        for plan, key in call.wanted:
            entry, held = turn.load(plan, key, may_create=True), states[key]
            object.__setattr__(held, "__dict__", entry.state.__dict__)
            bind(held, bond_of(entry.state))
            entry.state = held

    # -- transactions ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(
        self,
        wanted: Sequence[tuple[StatePlan, StateKey]],
        check: Callable[[Entry], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[list[ReactiveState]]:
        """Give private copies of states that are committed together when the block ends, and not if it raises.

        Args:
            wanted: classes and keys.
            check: called with each loaded state; raises to refuse.
        """
        outer = current_turn.get()
        if outer is not None and outer.is_active and all(key in outer.entries for _, key in wanted):
            yield [outer.entries[key].state for _, key in wanted]
            return
        turn = await self.turns.take(wanted, TRANSACTION_WAIT_S)
        token = current_turn.set(turn)
        try:
            entries = [turn.load(plan, key, may_create=True) for plan, key in wanted]
            for entry in entries:
                if check is not None:
                    await check(entry)
            yield [entry.state for entry in entries]
            prepared = turn.prepare()
            await self._shielded(turn, turn.commit(prepared))
        finally:
            current_turn.reset(token)
            await self._shielded(turn, turn.release())

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
        while (tasks := self._all_tasks()) and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.wait(tasks, timeout=left_s)
        self.give_up()

    def give_up(self) -> None:
        """Answer 503 for every call that still runs, and cancel what can be cancelled."""
        stopping = OverloadedError("The server is stopping", headers={"Retry-After": "1"})
        for task in self._all_tasks():
            task.cancel()
        for running in list(self._calls):
            self._settle(running, running.call.failed(stopping))

    def _all_tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks of calls and everything else that runs."""
        return [*self._tasks, *(running.task for running in self._calls if running.task is not None)]

    async def aclose(self) -> None:
        """End what is still running; handlers in threads keep their thread until they return."""
        tasks = self._all_tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        self._workers.close()


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
        self.raised: BaseException | None = None

    async def step(self) -> Any:
        """Return what the generator yields next, or what it returned at its end."""
        try:
            if self._async_generator is not None:
                return await anext(self._async_generator)
            value, self.is_done = await self._in_thread(self._next)
            return value
        except StopAsyncIteration:
            self.is_done = True
            return None
        except Exception as exc:
            self.raised, self.is_done = exc, True
            raise

    def _in_thread(self, step: Callable[[], T]) -> asyncio.Future[T]:
        session = self.session
        return self._workers.run(step if session is None else lambda: session.call(step))

    def _next(self) -> tuple[Any, bool]:
        try:
            return self._context.run(next, self._generator), False
        except StopIteration as stop:
            return stop.value, True

    async def aclose(self) -> None:
        """Close the generator where it stands; its ``finally`` blocks run."""
        try:
            if self._async_generator is not None:
                await self._async_generator.aclose()
            else:
                await self._in_thread(self._generator.close)
        except Exception:
            logger.exception("a generator event failed while it was closed")
        self.is_done = True


def _reused() -> FastStateError:
    return ArgumentError("This Idempotency-Key was used for another request")


def loggable(key: StateKey) -> str:
    """Return a key for log records: session ids are shortened, they are as good as a password."""
    if key.session_id is None:
        return str(key)
    return key.replace(key.session_id, f"{key.session_id[:6]}…")
