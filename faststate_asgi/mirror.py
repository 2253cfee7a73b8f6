"""Mirrors of watched states, and the streams that follow them.

A mirror keeps the newest values of one key and when each changed; a stream keeps only the place that it was sent last.
What either has to be sent is made here; when it is sent is the hub's.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import Context
from hashlib import blake2b
from typing import Any

from . import frames, order
from .echo import with_tab
from .keys import StateKey
from .patches import Json, is_object, merge, nest, same, whole
from .plans import StatePlan
from .signals import signal_path
from .state import ReactiveState
from .stores.base import NO_VERSION, Snapshot
from .updates import Update, differences, render_fragment, signal_frames

logger = logging.getLogger("faststate.hub")

ONE_OFF_ELEMENTS = 32
_NUMBERS = re.compile(r"(?:[0-9a-f]{16}-)?([0-9]{1,15}(?:-[0-9]{1,15})*)")
Send = Callable[[dict[str, Any]], Awaitable[None]]


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
            values = codec.wire_values(state, codec.signals, codec.texts(state))
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
        removed = [n for n in patch if is_object(patch[n]) and self.removed_at.get(n, 0) > since]
        result = signal_frames(signal_path(self.plan.namespace, self.key), patch, removed)
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
        "context",
        "ends_at",
        "failed_rechecks",
        "is_blocked",
        "last_write",
        "mirrors",
        "owner",
        "place",
        "recheck",
        "recheck_at",
        "repeat_at",
        "repeats",
        "retry_ms",
        "send",
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
        self.context: Context | None = None
        """What ``send`` runs in if a middleware has wrapped it; None if it is the server's own."""
        self.mirrors = tuple(mirrors)
        self.session, self.session_id, self.user_id = session, session_id, user_id
        self.place, self.versions = newest(self.mirrors)
        self.is_blocked = True
        self.last_write = 0.0
        self.ends_at = float("inf")
        self.recheck_at = float("inf")
        self.recheck: Callable[[Stream], Coroutine[Any, Any, None]] | None = None
        self.failed_rechecks = 0
        self.repeat_at = float("inf")
        self.repeats = 0
        self.retry_ms: int | None = None
        self.owner: asyncio.Task[Any] | None = None
        self.writer: asyncio.Task[None] | None = None

    @property
    def is_behind(self) -> bool:
        """Whether a mirror has newer values than were sent."""
        return any(seq != mirror.seq for seq, mirror in zip(self.place, self.mirrors, strict=True))

    def compose(self) -> bytes:
        """Return the body that brings the page up to date, and count it as sent."""
        body = fresh_body(self.mirrors, self.place)
        self.place, self.versions = newest(self.mirrors)
        return body

    @property
    def transport(self) -> Any:
        """The connection, as uvicorn has it; None under other servers and behind a wrapped ``send``."""
        return getattr(getattr(self.send, "__self__", None), "transport", None)

    def abort(self) -> None:
        """Close the connection for good; elsewhere than under uvicorn, end the request."""
        transport = self.transport
        if transport is not None:
            transport.abort()
        elif self.owner is not None:
            self.owner.cancel()

    def end(self, retry_ms: int) -> None:
        """Ask the request's task to end the stream cleanly; the client comes back after ``retry_ms``."""
        if self.retry_ms is None:
            self.retry_ms = retry_ms
            if self.owner is not None:
                self.owner.cancel()


def newest(mirrors: Sequence[Mirror]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return place and versions of a stream that was sent everything."""
    return tuple([mirror.seq for mirror in mirrors]), tuple([mirror.version for mirror in mirrors])


def fresh_body(mirrors: Sequence[Mirror], place: Sequence[int]) -> bytes:
    """Return the body that brings a page from a place to the newest values; empty if it has them."""
    parts: list[bytes] = []
    for since, mirror in zip(place, mirrors, strict=True):
        if since != mirror.seq:
            parts += mirror.fresh(since)
    return with_id(parts, vector_id(mirrors, [mirror.version for mirror in mirrors])) if parts else b""


def vector_id(mirrors: Sequence[Mirror], versions: Sequence[str]) -> str:
    """Return what goes into ``id:``: a digest of (key, version) pairs, equal if nothing was missed, and their numbers."""
    pairs = list(zip(mirrors, versions, strict=True))
    text = "\n".join(sorted(f"{mirror.key}={version}" for mirror, version in pairs))
    digest = blake2b(text.encode(), digest_size=8).hexdigest()
    return "-".join([digest, *(order.number_of(version) for version in versions)])


def behind(mirrors: Sequence[Mirror], seen: str | None) -> list[Mirror]:
    """Return the mirrors that are older than what a page has seen, here or at a process that heard of it earlier.

    Args:
        mirrors: in the order of the numbers.
        seen: what went into ``id:``, or the numbers alone, as pages have them; anything else tells nothing.
    """
    found = _NUMBERS.fullmatch(seen or "")
    numbers = map(int, found[1].split("-")) if found else ()
    return [one for one, number in zip(mirrors, numbers, strict=False) if int(order.number_of(one.version)) < number]


def with_id(parts: Sequence[bytes], event_id: str) -> bytes:
    """Return frames as one body whose last one carries the id: a client that got it got all."""
    if not parts:
        return b""
    return b"".join(parts[:-1]) + b"id: " + event_id.encode() + b"\n" + parts[-1]


def snapshot_frames(
    mirrors: Sequence[Mirror], labels: str, last_event_id: str | None, tag: str | None = None
) -> list[bytes]:
    """Return the first frames of a stream: everything, or only ``$_faststate`` if nothing was missed.

    Objects go as an empty string first: merging alone could not remove a key that the page still has.
    """
    status: dict[str, Json] = {"_faststate": {"connected": True, "live": labels}}
    versions = [mirror.version for mirror in mirrors]
    held = {mirror.key.label: mirror.version for mirror in mirrors}

    def first(patch: dict[str, Json]) -> bytes:
        return frames.signals(patch) if tag is None else order.holding(frames.signals(patch), held)

    if last_event_id == vector_id(mirrors, versions):
        return [with_tab(first(status), tag)]
    blanks: dict[str, Json] = {}
    values: dict[str, Json] = {}
    for mirror in mirrors:
        path = signal_path(mirror.plan.namespace, mirror.key)
        objects = {name: "" for name, value in mirror.values.items() if is_object(value)}
        if objects:
            merge(blanks, nest(path, objects))
        merge(values, nest(path, whole(mirror.values)))
    result = [first(blanks)] if blanks else []
    result.append(with_tab(first(merge(values, status)), tag))
    for mirror in mirrors:
        result += mirror.fragments.values()
    return result
