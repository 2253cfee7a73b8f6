"""Local fan-out: which streams follow which mirrors, who is behind, and who may not watch any longer.

The hub owns mirrors and streams, and steps each stream's ``send`` itself; it gives the loop a turn after every 50. A
stream whose ``send`` would wait is left to a writer of its own and gets the newest values afterwards. What a middleware
has put around ``send`` may ask for the running task: it is stepped as if in the writer's. Delivery to other processes
is not done here.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from . import frames
from .eager import Starter, Suspended
from .errors import StoreUnavailableError
from .keys import StateKey
from .messages import Ended, Message, Published, Shown
from .mirror import ONE_OFF_ELEMENTS, Mirror, Stream, fresh_body, newest, vector_id, with_id
from .plans import StatePlan
from .readers import silent_for, while_read
from .state import ReactiveState
from .steps import ended, put_aside, resumed
from .stores.base import Snapshot
from .updates import Update

logger = logging.getLogger("faststate.hub")

SENDS_PER_TURN = 50
TICKS_PER_LOOK = 5
"""Each stream's connection is looked at every so many ticks; which ones is spread evenly."""
REPEAT_AFTER_S = (1.0, 3.0, 10.0, 30.0)
ANSWERED_WITHIN_S = 60.0
MAX_ANSWERED = 10_000
Delivery = tuple[tuple[int, ...], tuple[str, ...], dict[str, Any] | None]
"""What one place in some mirrors needs: the place and versions afterwards, and the message, None if nothing is new."""
Load = Callable[[StatePlan, Snapshot | None, StateKey], ReactiveState | None]


class _Deliveries:
    """What streams have to be sent, made once for each place; lives while no mirror changes."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: dict[tuple[tuple[Mirror, ...], tuple[int, ...]], Delivery] = {}

    def of(self, stream: Stream) -> Delivery:
        """Return what this stream has to be sent; it is not counted as sent yet."""
        key = (stream.mirrors, stream.place)
        known = self._made.get(key)
        if known is None:
            here, versions = newest(stream.mirrors)
            body = fresh_body(stream.mirrors, stream.place)
            message = {"type": "http.response.body", "body": body, "more_body": True} if body else None
            known = self._made[key] = (here, versions, message)
        return known


class Hub:
    """All mirrors and streams of one process.

    Args:
        read: reads snapshots of keys of one class.
        load: makes a state of a snapshot.
        write_deadline_s: how long a reader may take nothing of a write.
        heartbeat_s: silence after which a comment is sent.
    """

    def __init__(
        self,
        read: Callable[[StatePlan, StateKey], Awaitable[Snapshot | None]],
        load: Load,
        *,
        write_deadline_s: float,
        heartbeat_s: float,
    ) -> None:
        self._read, self._load = read, load
        self._write_deadline_s, self._heartbeat_s = write_deadline_s, heartbeat_s
        self._mirrors: dict[StateKey, Mirror] = {}
        self._streams: dict[Stream, None] = {}
        self._per_session: dict[str, int] = {}
        self._rounds: deque[Mirror] = deque()
        self._is_pumping = False
        self._ticks = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._starter = Starter(self._adopt)
        # When a page of each session was last answered with values that its stream did not bring.
        self._answered: dict[str, float] = {}
        self.watch: Callable[[Mirror], Awaitable[None]] | None = None
        self.unwatch: Callable[[Sequence[Mirror]], Awaitable[None]] | None = None
        self.deliveries = 0

    # -- subscribing -------------------------------------------------------------------------------------------------

    @property
    def stream_count(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def watched(self) -> list[Mirror]:
        """All mirrors."""
        return list(self._mirrors.values())

    @property
    def streams(self) -> list[Stream]:
        """All open streams."""
        return list(self._streams)

    def mirror_of(self, key: StateKey) -> Mirror | None:
        """Return the newest values of a watched state, None if nobody here watches it."""
        mirror = self._mirrors.get(key)
        return mirror if mirror is not None and mirror.is_loaded else None

    def is_watched(self, key: StateKey) -> bool:
        """Whether a stream here watches a state, or is about to."""
        return key in self._mirrors

    def session_streams(self, session_id: str) -> int:
        """How many streams a session has open."""
        return self._per_session.get(session_id, 0)

    async def mirrors(self, wanted: Sequence[tuple[StatePlan, StateKey]]) -> list[Mirror]:
        """Return loaded mirrors; each key is read once, however many streams ask at the same time."""
        while True:
            found = [self._mirrors.get(key) or self._new_mirror(plan, key) for plan, key in wanted]
            for mirror in found:
                while not mirror.is_loaded:
                    if mirror.loading is None:
                        mirror.loading = self._spawn(self._load_mirror(mirror))
                    await asyncio.shield(mirror.loading)
            # One may have lost its last stream while another was loading.
            if all(self._mirrors.get(mirror.key) is mirror for mirror in found):
                return found

    def _new_mirror(self, plan: StatePlan, key: StateKey) -> Mirror:
        mirror = self._mirrors[key] = Mirror(plan, key)
        return mirror

    async def _load_mirror(self, mirror: Mirror) -> None:
        """Read a key until nothing changed meanwhile; subscribing comes first."""
        try:
            if self.watch is not None and not mirror.is_loaded:
                await self.watch(mirror)
            while True:
                mirror.is_stale = False
                snapshot = await self._read(mirror.plan, mirror.key)
                if not mirror.is_stale:
                    break
            has_news = mirror.absorb(snapshot, self._load(mirror.plan, snapshot, mirror.key))
            mirror.is_loaded = True
            if has_news:
                self._begin_round(mirror)
            heard, mirror.heard = mirror.heard, []
            self._send_elements(mirror, heard)
        finally:
            mirror.loading = None

    def attach(self, stream: Stream) -> None:
        """Begin to deliver to a stream, from what its mirrors hold now."""
        self._streams[stream] = None
        for mirror in stream.mirrors:
            mirror.streams[stream] = None
            mirror.idle_ticks = 0
        if stream.session_id is not None:
            self._per_session[stream.session_id] = self._per_session.get(stream.session_id, 0) + 1
            # Only a session's requests leave notes of what they were answered.
            stream.repeat_at = asyncio.get_running_loop().time() + REPEAT_AFTER_S[0]

    def detach(self, stream: Stream) -> None:
        """Forget a stream, and mirrors that nobody watches any more."""
        if self._streams.pop(stream, self) is self:
            return
        if stream.writer is not None:
            stream.writer.cancel()
        if stream.session_id is not None:
            left = self._per_session[stream.session_id] - 1
            if left:
                self._per_session[stream.session_id] = left
            else:
                del self._per_session[stream.session_id]
        dropped: list[Mirror] = []
        for mirror in stream.mirrors:
            mirror.streams.pop(stream, None)
            if not mirror.streams and self._mirrors.get(mirror.key) is mirror:
                del self._mirrors[mirror.key]
                dropped.append(mirror)
        if dropped and self.unwatch is not None:
            self._spawn(self._unwatch(dropped))

    async def _unwatch(self, mirrors: list[Mirror]) -> None:
        unused = [mirror for mirror in mirrors if mirror.key not in self._mirrors]
        if unused and self.unwatch is not None:
            await self.unwatch(unused)

    # -- changes -----------------------------------------------------------------------------------------------------

    def publish(self, updates: Iterable[Update]) -> None:
        """Send committed changes of this process to its streams."""
        for update in updates:
            mirror = self._mirrors.get(update.key)
            if mirror is not None:
                self._publish(mirror, update)

    def _publish(self, mirror: Mirror, update: Update) -> None:
        # What is being read may be older than this commit, and must not overwrite it.
        mirror.is_stale = mirror.loading is not None
        if not mirror.is_loaded:
            return
        if update.version == mirror.version:
            self._send_elements(mirror, update.elements)
        elif update.before == mirror.version:
            mirror.apply(update)
            self._begin_round(mirror)
        else:
            self.reload(mirror)

    def _send_elements(self, mirror: Mirror, elements: Sequence[bytes]) -> None:
        """Send one-off elements of an event that changed nothing."""
        if elements:
            mirror.seq += 1
            mirror.once.extend((mirror.seq, frame) for frame in elements)
            mirror.latest = None
            self._begin_round(mirror)

    def receive(self, message: Message | None) -> None:
        """Take a message of another process; None means that some may have been lost."""
        if message is None:
            for mirror in self.watched:
                self.reload(mirror)
        elif isinstance(message, Ended):
            self.end_streams(message)
        elif isinstance(message, Shown):
            self._receive_elements(message)
        else:
            self._receive(message)

    def _receive(self, message: Published) -> None:
        mirror = self._mirrors.get(message.key)
        if mirror is None:
            return
        if not mirror.is_loaded:
            mirror.is_stale = True
        elif message.version != mirror.version:
            self.reload(mirror)

    def _receive_elements(self, message: Shown) -> None:
        """Show what another process broadcasts, after the change that it told before."""
        mirror = self._mirrors.get(message.key)
        if mirror is None or not mirror.is_loaded:
            return
        if mirror.loading is None:
            self._send_elements(mirror, [message.frame.encode()])
        else:
            mirror.heard = [*mirror.heard[1 - ONE_OFF_ELEMENTS :], message.frame.encode()]

    def reload(self, mirror: Mirror) -> None:
        """Read a mirror's state again, once, however often this is asked for."""
        if mirror.loading is None:
            mirror.loading = self._spawn(self._load_mirror(mirror))
        else:
            mirror.is_stale = True

    async def refresh(self, mirrors: Iterable[Mirror]) -> None:
        """Read states again, and return when what is held is no older than this call.

        Raises:
            StoreUnavailableError: a store did not answer.
        """
        for mirror in mirrors:
            self.reload(mirror)
            if mirror.loading is not None:
                await asyncio.shield(mirror.loading)

    def end_streams(self, which: Ended, retry_ms: int = 200) -> None:
        """End the streams of a cookie or a user; they come back with what they may see then."""
        for stream in self.streams:
            if (which.session is not None and stream.session == which.session) or (
                which.user_id is not None and stream.user_id == which.user_id
            ):
                stream.end(retry_ms)

    def end_all(self) -> None:
        """End every stream, each with its own reconnection delay, so that they do not come back all at once."""
        for stream in self.streams:
            stream.end(random.randint(1000, 10_000))

    # -- what a session changed without its stream -------------------------------------------------------------------

    def note_answered(self, session_id: str) -> None:
        """Remember that a page got values in an answer, which may arrive after its stream has opened again."""
        self._answered[session_id] = time.monotonic()
        if len(self._answered) > MAX_ANSWERED:
            self._answered.pop(next(iter(self._answered)))

    def answered_lately(self, stream: Stream) -> bytes:
        """Return the newest values of a stream's states as one body if its session was answered lately."""
        noted_at = self._answered.get(stream.session_id or "")
        if noted_at is None or stream.is_blocked or time.monotonic() - noted_at > ANSWERED_WITHIN_S:
            return b""
        parts = [part for mirror in stream.mirrors for part in mirror.fresh(-1)]
        return with_id(parts, vector_id(stream.mirrors, stream.versions))

    def forget_answered(self) -> None:
        """Drop old notes."""
        now = time.monotonic()
        for session_id in [one for one, at in self._answered.items() if now - at > ANSWERED_WITHIN_S]:
            del self._answered[session_id]

    # -- fan-out -----------------------------------------------------------------------------------------------------

    def _begin_round(self, mirror: Mirror) -> None:
        if mirror.cursor is None:
            mirror.cursor = list(mirror.streams)
            mirror.round_seq = mirror.seq
            self._rounds.append(mirror)
        if not self._is_pumping:
            self._pump()

    def _pump(self) -> None:
        """Step streams, at most ``SENDS_PER_TURN`` of them, then give the loop a turn."""
        self._is_pumping = False
        loop = asyncio.get_running_loop()
        now, deliveries = loop.time(), _Deliveries()
        budget = SENDS_PER_TURN
        while self._rounds:
            mirror = self._rounds[0]
            budget -= self._step_streams(mirror.cursor or [], deliveries, budget, now)
            if mirror.cursor:
                self._is_pumping = True
                loop.call_soon(self._pump)
                return
            if mirror.round_seq != mirror.seq:
                mirror.cursor, mirror.round_seq = list(mirror.streams), mirror.seq
                continue
            mirror.cursor = None
            self._rounds.popleft()

    def _step_streams(self, waiting: list[Stream], deliveries: _Deliveries, budget: int, now: float) -> int:
        """Send what is new to streams from the end of the list, at most ``budget`` of them; return how many.

        Streams of one page mostly watch the same and are in the same place: what was looked up for the last serves
        the next.
        """
        mirrors: tuple[Mirror, ...] = ()
        place: tuple[int, ...] = ()
        here: tuple[int, ...] = ()
        versions: tuple[str, ...] = ()
        message: dict[str, Any] | None = None
        sent = 0
        while waiting and sent < budget:
            stream = waiting.pop()
            if stream.is_blocked:
                continue
            if stream.place != place or stream.mirrors != mirrors:
                mirrors, place = stream.mirrors, stream.place
                here, versions, message = deliveries.of(stream)
            stream.place, stream.versions = here, versions
            if message is None:
                continue
            sent += 1
            stream.last_write = now
            if stream.context is not None:
                self._step_in_task(stream, message)
                continue
            coroutine: Any = stream.send(message)
            try:
                still = coroutine.send(None)
            except StopIteration:
                continue
            except Exception as exc:
                self._give_up(stream, exc)
                continue
            self._wait_for(stream, coroutine, still)
        self.deliveries += sent
        return sent

    def step(self, stream: Stream, message: dict[str, Any]) -> None:
        """Run one ``send`` as far as it goes without waiting; the rest is the stream's own writer's."""
        self.deliveries += 1
        stream.last_write = asyncio.get_running_loop().time()
        if stream.context is not None:
            self._step_in_task(stream, message)
            return
        coroutine: Any = stream.send(message)
        try:
            waiting = coroutine.send(None)
        except StopIteration:
            return
        except Exception as exc:
            self._give_up(stream, exc)
            return
        self._wait_for(stream, coroutine, waiting)

    def _step_in_task(self, stream: Stream, message: dict[str, Any]) -> None:
        """Do the same where ``send`` is not the server's own: one task of the hub's begins and ends it.

        Whoever enters ``asyncio.timeout`` or a cancel scope of anyio has to be a task, and the same one that leaves it.
        """
        assert stream.context is not None, "it is what tells such a stream"
        try:
            rest = self._starter.begin(_sent(stream, message), stream.context)
        except (Exception, asyncio.CancelledError) as exc:  # nobody has cancelled anything here
            self._give_up(stream, exc)
            return
        if type(rest) is Suspended:
            stream.is_blocked = True
            stream.writer = rest.task
            rest.go_on(self._write_rest(stream, rest))

    def _wait_for(self, stream: Stream, coroutine: Coroutine[Any, Any, Any], waiting: Any) -> None:
        """Leave a ``send`` that has to wait to a writer of the stream's own."""
        stream.is_blocked = True
        stream.writer = self._spawn(self._write_rest(stream, resumed(coroutine, put_aside(waiting))))

    def _give_up(self, stream: Stream, exc: BaseException) -> None:
        """End a stream whose ``send`` has failed; that the reader is gone is nobody's fault."""
        if not isinstance(exc, OSError):
            logger.error("a stream is ended, because what sends it has failed", exc_info=exc)
        stream.abort()

    async def _write_rest(self, stream: Stream, rest: Awaitable[None]) -> None:
        """Finish a ``send`` that has to wait, then catch up; a reader that takes too long is cut off."""
        try:
            async with while_read(stream.transport, self._write_deadline_s):
                await rest
            await self.catch_up(stream)
        except TimeoutError:
            logger.info(
                "a reader did not take its bytes within %.0f s; its connection is closed", self._write_deadline_s
            )
            stream.abort()
        except Exception as exc:
            self._give_up(stream, exc)
        finally:
            stream.writer = None

    async def catch_up(self, stream: Stream) -> None:
        """Send the newest values until there are none, then let the hub step the stream again."""
        while stream.is_behind:
            body = stream.compose()
            if body:
                async with while_read(stream.transport, self._write_deadline_s):
                    await stream.send({"type": "http.response.body", "body": body, "more_body": True})
                stream.last_write = asyncio.get_running_loop().time()
        stream.is_blocked = False

    # -- time --------------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Send heartbeats, end streams that are old or whose reader is gone, and check again who may watch."""
        now = asyncio.get_running_loop().time()
        self._ticks += 1
        look = self._ticks % TICKS_PER_LOOK
        # Who is there acknowledges something in each heartbeat.
        silence_s = self._heartbeat_s + self._write_deadline_s
        self._drop_unused()
        beat = {"type": "http.response.body", "body": frames.HEARTBEAT, "more_body": True}
        for index, stream in enumerate(self.streams):
            if index % SENDS_PER_TURN == SENDS_PER_TURN - 1:
                await asyncio.sleep(0)
            if index % TICKS_PER_LOOK == look and silent_for(stream.transport) > silence_s:
                logger.info("a reader has acknowledged nothing for %.0f s; its connection is closed", silence_s)
                stream.abort()
            elif now >= stream.ends_at:
                stream.end(retry_ms=random.randint(50, 500))
            elif now >= stream.recheck_at and stream.recheck is not None:
                stream.recheck_at = float("inf")
                self._spawn(stream.recheck(stream))
            elif now >= stream.repeat_at:
                self._repeat(stream, now)
            elif not stream.is_blocked and now - stream.last_write >= self._heartbeat_s:
                self.step(stream, beat)

    def _repeat(self, stream: Stream, now: float) -> None:
        """Send once more what an answer may just be bringing to the page in an older version."""
        body = self.answered_lately(stream)
        if body:
            self.step(stream, {"type": "http.response.body", "body": body, "more_body": True})
        passed_s = REPEAT_AFTER_S[stream.repeats]
        stream.repeats += 1
        is_last = stream.repeats == len(REPEAT_AFTER_S)
        stream.repeat_at = float("inf") if is_last else now + REPEAT_AFTER_S[stream.repeats] - passed_s

    def _drop_unused(self) -> None:
        """Forget mirrors whose stream was refused or left before it began; two ticks are enough to begin."""
        idle = [mirror for mirror in self._mirrors.values() if mirror.is_loaded and not mirror.streams]
        for mirror in idle:
            if mirror.idle_ticks:
                del self._mirrors[mirror.key]
                if self.unwatch is not None:
                    self._spawn(self._unwatch([mirror]))
            mirror.idle_ticks += 1

    async def aclose(self) -> None:
        """Stop everything that the hub owns."""
        await self._starter.aclose()
        await ended(self._tasks)

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that the hub owns."""
        task = asyncio.Task(
            coroutine, loop=asyncio.get_running_loop()
        )  # never an eager one: who spawns it notes it first
        self._adopt(task)
        return task

    def _adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreUnavailableError):
            logger.warning("a watched state could not be read: %s", error)
        elif error is not None:
            logger.error("a background task of the hub failed", exc_info=error)


async def _sent(stream: Stream, message: dict[str, Any]) -> None:
    """Await a ``send``, whatever kind of awaitable it gives."""
    await stream.send(message)
