"""Local fan-out: mirrors of watched states, the streams that follow them, and who is behind.

A mirror keeps the newest values of one key and when each changed; a stream keeps only what it was sent last. The hub
steps each stream's ``send`` itself and gives the loop a turn after every 50; a stream whose ``send`` would wait is
left to a writer of its own and gets the newest values afterwards. Delivery to other processes is not done here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from . import frames
from .echo import note_frame, with_tab
from .errors import StoreUnavailableError
from .keys import StateKey
from .messages import Ended, Message, Published
from .patches import Json, merge, nest, same
from .registry import StatePlan
from .state import ReactiveState
from .steps import resumed
from .stores.base import NO_VERSION, Snapshot
from .updates import Update, differences, render_fragment, signal_frames, signal_path

logger = logging.getLogger("faststate.hub")

SENDS_PER_TURN = 50
ONE_OFF_ELEMENTS = 32
Send = Callable[[dict[str, Any]], Awaitable[None]]
Load = Callable[[StatePlan, Snapshot | None, StateKey], ReactiveState | None]


class Mirror:
    """The newest public values of one watched state in this process; lives while a stream watches it."""

    __slots__ = (
        "changed_at",
        "cursor",
        "data",
        "fragment_at",
        "fragments",
        "heard",
        "idle_ticks",
        "is_loaded",
        "is_stale",
        "key",
        "latest",
        "loading",
        "once",
        "plan",
        "removed_at",
        "round_seq",
        "seq",
        "shape",
        "streams",
        "values",
        "version",
    )

    def __init__(self, plan: StatePlan, key: StateKey) -> None:
        self.plan, self.key = plan, key
        self.version = NO_VERSION
        self.data: bytes | None = None
        self.shape = plan.shape
        self.values: dict[str, Json] = {}
        self.fragments: dict[str, bytes] = {}
        self.seq = 0
        self.changed_at: dict[str, int] = {}
        self.removed_at: dict[str, int] = {}
        self.fragment_at: dict[str, int] = {}
        self.once: deque[tuple[int, bytes]] = deque(maxlen=ONE_OFF_ELEMENTS)
        self.heard: list[bytes] = []
        self.streams: dict[Stream, None] = {}
        self.latest: tuple[int, list[bytes]] | None = None
        self.loading: asyncio.Task[None] | None = None
        self.is_loaded = False
        self.idle_ticks = 0
        self.is_stale = False
        self.cursor: list[Stream] | None = None
        self.round_seq = 0

    def apply(self, update: Update) -> None:
        """Take over the values of the update that follows on this version."""
        self.seq += 1
        self.version, self.data, self.shape = update.version, update.data, self.plan.shape
        self.values.update(update.values)
        self.fragments.update(update.fragments)
        self._mark(update.values, update.removed, update.fragments)
        for frame in update.elements:
            self.once.append((self.seq, frame))
        self.latest = (self.seq, [*update.frames, *update.elements])

    def absorb(self, snapshot: Snapshot | None, state: ReactiveState | None) -> bool:
        """Take over a state that was read, whatever lies between; tell whether a page has to change."""
        codec = self.plan.codec
        if state is None:
            values: dict[str, Json] = dict.fromkeys(codec.signals, "")
        else:
            values = codec.wire_values(state, codec.signals)
        fragments = {} if state is None else self._rendered(state)
        changed = {n: v for n, v in values.items() if n not in self.values or not same(self.values[n], v)}
        _, removed = differences(self.values, changed)
        redrawn = {n: f for n, f in fragments.items() if self.fragments.get(n) != f}
        self.version = NO_VERSION if snapshot is None else snapshot.version
        self.data = None if snapshot is None else snapshot.data
        self.shape = self.plan.shape if snapshot is None else snapshot.shape
        self.values, self.fragments = values, fragments
        if changed or redrawn:
            self.seq += 1
            self._mark(changed, removed, redrawn)
            self.latest = None
        return bool(changed or redrawn)

    def _rendered(self, state: ReactiveState) -> dict[str, bytes]:
        """Render every fragment; one that raises keeps what it showed, and is logged."""
        rendered: dict[str, bytes] = {}
        for name in self.plan.cls.__faststate_fragments__:
            try:
                rendered[name] = render_fragment(self.plan, name, state)
            except Exception:
                logger.exception("fragment %s.%s failed", self.plan.name, name)
                if name in self.fragments:
                    rendered[name] = self.fragments[name]
        return rendered

    def _mark(self, values: Iterable[str], removed: Iterable[str], fragments: Iterable[str]) -> None:
        for name in values:
            self.changed_at[name] = self.seq
        for name in removed:
            self.removed_at[name] = self.seq
        for name in fragments:
            self.fragment_at[name] = self.seq

    def fresh(self, since: int) -> list[bytes]:
        """Return the frames that bring a page that was sent ``since`` to the newest values; all of them for -1."""
        if self.latest is not None and self.latest[0] == self.seq == since + 1:
            return self.latest[1]
        patch = {n: v for n, v in self.values.items() if self.changed_at.get(n, 0) > since}
        removed = [n for n in patch if type(patch[n]) is dict and self.removed_at.get(n, 0) > since]
        result = signal_frames(signal_path(self.plan, self.key), patch, removed)
        result += [f for n, f in self.fragments.items() if self.fragment_at.get(n, 0) > since]
        return result + [frame for seq, frame in self.once if seq > since >= 0]


class Stream:
    """One tab's SSE response; lives as long as its request.

    Args:
        send: ASGI ``send`` of the request, after ``http.response.start``.
        mirrors: what it watches.
        session: the id of the cookie it was opened with, for ending it at logout.
        session_id: the session whose states it may watch.
        user_id: who opened it.
    """

    __slots__ = (
        "abort",
        "ends_at",
        "is_blocked",
        "last_write",
        "mirrors",
        "owner",
        "recheck",
        "recheck_at",
        "retry_ms",
        "send",
        "sent",
        "session",
        "session_id",
        "user_id",
        "versions",
        "writer",
    )

    def __init__(
        self, send: Send, mirrors: Sequence[Mirror], session: str | None, session_id: str | None, user_id: str | None
    ) -> None:
        self.send = send
        self.mirrors = tuple(mirrors)
        self.session, self.session_id, self.user_id = session, session_id, user_id
        self.sent = [mirror.seq for mirror in mirrors]
        self.versions = tuple(mirror.version for mirror in mirrors)
        self.is_blocked = True
        self.last_write = 0.0
        self.ends_at = float("inf")
        self.recheck_at = float("inf")
        self.recheck: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.retry_ms: int | None = None
        self.owner: asyncio.Task[Any] | None = None
        self.writer: asyncio.Task[None] | None = None
        self.abort: Callable[[], None] = lambda: None

    @property
    def is_behind(self) -> bool:
        """Whether a mirror has newer values than were sent."""
        return any(seq != mirror.seq for seq, mirror in zip(self.sent, self.mirrors, strict=True))

    def compose(self) -> bytes:
        """Return the body that brings the page up to date, and count it as sent."""
        parts: list[bytes] = []
        for index, mirror in enumerate(self.mirrors):
            if self.sent[index] != mirror.seq:
                parts += mirror.fresh(self.sent[index])
                self.sent[index] = mirror.seq
        self.versions = tuple(mirror.version for mirror in self.mirrors)
        return with_id(parts, vector_id(self.mirrors, self.versions))

    def end(self, retry_ms: int) -> None:
        """Ask the request's task to end the stream cleanly; the client comes back after ``retry_ms``."""
        if self.retry_ms is None:
            self.retry_ms = retry_ms
            if self.owner is not None:
                self.owner.cancel()


def vector_id(mirrors: Sequence[Mirror], versions: Sequence[str]) -> str:
    """Return the digest of (key, version) pairs that goes into ``id:``; equal means nothing was missed."""
    text = "\n".join(sorted(f"{mirror.key}={version}" for mirror, version in zip(mirrors, versions, strict=True)))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def with_id(parts: Sequence[bytes], event_id: str) -> bytes:
    """Return frames as one body whose last one carries the id: a client that got it got all."""
    if not parts:
        return b""
    return b"".join(parts[:-1]) + b"id: " + event_id.encode() + b"\n" + parts[-1]


class Hub:
    """All mirrors and streams of one process.

    Args:
        read: reads snapshots of keys of one class.
        load: makes a state of a snapshot.
        write_deadline_s: how long one write to a stream may take.
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
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answered: dict[str, dict[StateKey, float]] = {}
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

    def _send_elements(self, mirror: Mirror, elements: list[bytes]) -> None:
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
        else:
            self._receive(message)

    def _receive(self, message: Published) -> None:
        mirror = self._mirrors.get(message.key)
        if mirror is None:
            return
        if message.typed and (frame := note_frame(message.typed)):
            mirror.heard = [*mirror.heard[1 - ONE_OFF_ELEMENTS :], frame]
        if not mirror.is_loaded:
            mirror.is_stale = True
        elif message.version != mirror.version or mirror.heard:
            self.reload(mirror)

    def reload(self, mirror: Mirror) -> None:
        """Read a mirror's state again, once, however often this is asked for."""
        if mirror.loading is None:
            mirror.loading = self._spawn(self._load_mirror(mirror))
        else:
            mirror.is_stale = True

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

    def note_answered(self, session_id: str, updates: Iterable[Update], now: float) -> None:
        """Remember that a page got values in an answer, which may arrive after its stream has opened again."""
        notes = self._answered.setdefault(session_id, {})
        for update in updates:
            notes[update.key] = now
        if len(self._answered) > 10_000:
            self._answered.pop(next(iter(self._answered)))

    def answered_lately(self, stream: Stream, now: float, within_s: float) -> bytes:
        """Return the newest values of states that the stream's session was answered lately, as one body."""
        notes = self._answered.get(stream.session_id or "")
        if not notes or stream.is_blocked:
            return b""
        parts: list[bytes] = []
        for mirror in stream.mirrors:
            noted_at = notes.get(mirror.key)
            if noted_at is not None and now - noted_at <= within_s:
                parts += mirror.fresh(-1)
        return with_id(parts, vector_id(stream.mirrors, stream.versions))

    def forget_answered(self, now: float, within_s: float) -> None:
        """Drop old notes."""
        for session_id in list(self._answered):
            notes = self._answered[session_id]
            for key in [key for key, at in notes.items() if now - at > within_s]:
                del notes[key]
            if not notes:
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
        bodies: dict[tuple[Any, ...], dict[str, Any]] = {}
        budget = SENDS_PER_TURN
        while self._rounds:
            mirror = self._rounds[0]
            waiting = mirror.cursor or []
            while waiting:
                if budget == 0:
                    self._is_pumping = True
                    asyncio.get_running_loop().call_soon(self._pump)
                    return
                stream = waiting.pop()
                if not stream.is_blocked and stream.is_behind:
                    self._deliver(stream, bodies)
                    budget -= 1
            if mirror.round_seq != mirror.seq:
                mirror.cursor, mirror.round_seq = list(mirror.streams), mirror.seq
                continue
            mirror.cursor = None
            self._rounds.popleft()

    def _deliver(self, stream: Stream, bodies: dict[tuple[Any, ...], dict[str, Any]]) -> None:
        """Send what is new; streams in the same place get the same message object."""
        place = (stream.mirrors, *stream.sent)
        message = bodies.get(place)
        if message is None:
            body = stream.compose()
            message = bodies[place] = {"type": "http.response.body", "body": body, "more_body": True}
        else:
            for index, mirror in enumerate(stream.mirrors):
                stream.sent[index] = mirror.seq
            stream.versions = tuple(mirror.version for mirror in stream.mirrors)
        if message["body"]:
            self.step(stream, message)

    def step(self, stream: Stream, message: dict[str, Any]) -> None:
        """Run one ``send`` as far as it goes without waiting; the rest is the stream's own writer's."""
        self.deliveries += 1
        stream.last_write = asyncio.get_running_loop().time()
        coroutine: Any = stream.send(message)
        try:
            waiting = coroutine.send(None)
        except StopIteration:
            return
        except Exception:
            stream.abort()
            return
        stream.is_blocked = True
        stream.writer = self._spawn(self._write_rest(stream, coroutine, waiting))

    async def _write_rest(self, stream: Stream, coroutine: Coroutine[Any, Any, Any], waiting: Any) -> None:
        """Finish a ``send`` that has to wait, then catch up; a reader that takes too long is cut off."""
        try:
            async with asyncio.timeout(self._write_deadline_s):
                await resumed(coroutine, waiting)
            await self.catch_up(stream)
        except TimeoutError:
            logger.info(
                "a reader did not take its bytes within %.0f s; its connection is closed", self._write_deadline_s
            )
            stream.abort()
        except OSError:
            stream.abort()
        finally:
            stream.writer = None

    async def catch_up(self, stream: Stream) -> None:
        """Send the newest values until there are none, then let the hub step the stream again."""
        while stream.is_behind:
            body = stream.compose()
            if body:
                async with asyncio.timeout(self._write_deadline_s):
                    await stream.send({"type": "http.response.body", "body": body, "more_body": True})
                stream.last_write = asyncio.get_running_loop().time()
        stream.is_blocked = False

    # -- time --------------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Send heartbeats, end streams that are old, and check again who may watch."""
        now = asyncio.get_running_loop().time()
        self._drop_unused()
        beat = {"type": "http.response.body", "body": frames.HEARTBEAT, "more_body": True}
        for index, stream in enumerate(self.streams):
            if index % SENDS_PER_TURN == SENDS_PER_TURN - 1:
                await asyncio.sleep(0)
            if now >= stream.ends_at:
                stream.end(retry_ms=random.randint(50, 500))
            elif now >= stream.recheck_at and stream.recheck is not None:
                stream.recheck_at = float("inf")
                self._spawn(stream.recheck())
            elif not stream.is_blocked and now - stream.last_write >= self._heartbeat_s:
                self.step(stream, beat)

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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that the hub owns."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreUnavailableError):
            logger.warning("a watched state could not be read: %s", error)
        elif error is not None:
            logger.error("a background task of the hub failed", exc_info=error)


def snapshot_frames(
    mirrors: Sequence[Mirror], labels: str, last_event_id: str | None, tag: str | None = None
) -> list[bytes]:
    """Return the first frames of a stream: everything, or only ``$_faststate`` if nothing was missed.

    Objects go as an empty string first: merging alone could not remove a key that the page still has.
    """
    status: dict[str, Json] = {"_faststate": {"connected": True, "live": labels}}
    versions = [mirror.version for mirror in mirrors]
    if last_event_id == vector_id(mirrors, versions):
        return [with_tab(frames.signals(status), tag)]
    blanks: dict[str, Json] = {}
    values: dict[str, Json] = {}
    for mirror in mirrors:
        path = signal_path(mirror.plan, mirror.key)
        objects = {name: "" for name, value in mirror.values.items() if type(value) is dict}
        if objects:
            merge(blanks, nest(path, objects))
        merge(values, nest(path, mirror.values))
    result = [frames.signals(blanks)] if blanks else []
    result.append(with_tab(frames.signals(merge(values, status)), tag))
    for mirror in mirrors:
        result += mirror.fragments.values()
    return result
