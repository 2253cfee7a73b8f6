"""One SSE response: who may watch, the first snapshot or a resume, and a clean end.

The request's own task waits for the client to leave; every write after the first is the hub's.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus

from starlette.exceptions import HTTPException

from . import frames
from .calls import is_cancelled
from .context import RequestContext
from .echo import TAB_HEADER, stream_tag
from .errors import (
    AuthenticationError,
    AuthorizationError,
    BadRequestError,
    OverloadedError,
    RateLimitedError,
    RequestError,
)
from .keys import StateKey, StateScope
from .mirror import Send, Stream, behind, snapshot_frames, vector_id, with_id
from .plans import StatePlan
from .readers import bound_backlog, while_read

if TYPE_CHECKING:
    from .engine import FastState

logger = logging.getLogger("faststate.hub")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

MAX_STATES = 64
SEEN_HEADER = b"faststate-seen"
RETRY_RANGE_MS = (1000, 10_000)
FINAL_STATUSES = frozenset({400, 401, 403, 404})
"""Refusals that a retry cannot mend."""
RECHECK_DEADLINE_S = 30.0
MAX_FAILED_RECHECKS = 3
_SESSION_SCOPES = frozenset({StateScope.SESSION, StateScope.COMPONENT})


def requested_states(query: bytes) -> list[tuple[str, str | None]]:
    """Return names and ids in ``states=Name,Other:id``, whose names and ids are percent-encoded.

    A browser encodes the whole value once more on its way, separators included; it is recognised by their absence.

    Raises:
        BadRequestError: none, or too many.
    """
    for pair in query.decode("ascii", "replace").split("&"):
        name, _, value = pair.partition("=")
        if name == "states":
            if "," not in value and ":" not in value:
                value = unquote_plus(value)
            items = [item for item in dict.fromkeys(value.split(",")) if item]
            if not items or len(items) > MAX_STATES:
                raise BadRequestError(f"states= must name 1 to {MAX_STATES} states")
            return [_name_and_id(item) for item in items]
    raise BadRequestError("The stream needs states=Name,Other:id")


def _name_and_id(item: str) -> tuple[str, str | None]:
    name, colon, own_id = item.partition(":")
    return unquote(name), unquote(own_id) if colon else None


class StreamOpening:
    """Opens one stream: everything that can refuse it happens before the first byte.

    Args:
        engine: the engine.
        context: of the request.
        scope: of the request.
    """

    __slots__ = ("_is_shared", "_labels", "_last_event_id", "_query", "_tag", "context", "engine")

    def __init__(self, engine: FastState, context: RequestContext, scope: Any) -> None:
        self.engine, self.context = engine, context
        self._query: bytes = scope.get("query_string", b"")
        self._last_event_id = context.header(b"last-event-id")
        self._tag = stream_tag(context.header(TAB_HEADER))
        self._is_shared = scope.get("http_version", "") not in ("1.0", "1.1")  # then other responses use the connection
        self._labels = ""

    async def wanted(self) -> list[tuple[StatePlan, StateKey]]:
        """Return the states that the request may watch; one that is refused refuses all.

        Raises:
            RequestError: why not.
        """
        await self.context.resolve()
        result: list[tuple[StatePlan, StateKey]] = []
        for name, own_id in requested_states(self._query):
            plan = self.engine.registry.named(name)
            if plan is None:
                raise BadRequestError("The stream names a state that does not exist")
            self.context.check_now(plan.guard)
            if plan.scope in _SESSION_SCOPES and not self.context.has_session:
                raise AuthenticationError("There is no session; please load the page again")
            is_record = plan.scope is StateScope.RECORD
            key = self.context.key_of(plan, own_id if is_record else None, None if is_record else own_id)
            result.append((plan, key))
        await self._authorize(result)
        return result

    async def _authorize(self, wanted: list[tuple[StatePlan, StateKey]]) -> None:
        for plan, key in wanted:
            if plan.config.owner_field is not None or plan.config.authorize is not None:
                state = await self.engine.read(plan, key)
                if state is None:
                    raise AuthorizationError("You may not watch this")
                await self.context.authorize(plan, state, "watch")

    def check_limits(self) -> None:
        """Refuse when there are too many streams.

        Raises:
            RateLimitedError: of this session.
            OverloadedError: in this process, or it is stopping.
        """
        engine, settings = self.engine, self.engine.settings
        if engine.runtime.is_draining:
            raise OverloadedError("The server is stopping", headers={"Retry-After": "1"})
        session_id = self.context.session_id
        if session_id is not None and engine.hub.session_streams(session_id) >= settings.max_streams_per_session:
            raise RateLimitedError("Too many open tabs", headers={"Retry-After": "5"})
        if engine.hub.stream_count >= settings.max_streams:
            raise OverloadedError("Too many open streams", headers={"Retry-After": "5"})

    async def open(self, send: Send) -> Stream:
        """Load what is watched and count the stream; nothing is sent yet.

        Raises:
            RequestError: it may not watch this, a limit is reached, or the store does not answer.
        """
        hub, context = self.engine.hub, self.context
        wanted = await self.wanted()
        self.check_limits()
        mirrors = await hub.mirrors(wanted)
        late = behind(mirrors, self._last_event_id or context.header(SEEN_HEADER))
        await hub.refresh([one for one in late if self.engine.backends.store_of(one.plan).is_shared])
        self.check_limits()
        self._labels = ",".join(dict.fromkeys(key.label for _, key in wanted))
        stream = Stream(send, mirrors, context.cookie_id, context.session_id, context.user)
        stream.owner = asyncio.current_task()
        hub.attach(stream)
        return stream

    async def serve(self, stream: Stream, receive: Receive) -> None:
        """Send the first frames and deliver changes until the client leaves or the stream has to end."""
        # Whatever this frame holds is held for as long as the stream is open, a thousand times over.
        try:
            await self._begin(stream)
            while (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            if stream.retry_ms is None:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            await self._finish(stream)
        except TimeoutError:
            stream.abort()
        finally:
            self.engine.hub.detach(stream)

    async def _begin(self, stream: Stream) -> None:
        """Send the head and the first frames, and what changed meanwhile."""
        first = snapshot_frames(stream.mirrors, self._labels, self._last_event_id, self._tag)
        opening = f"retry: {random.randint(*RETRY_RANGE_MS)}\n: open\n\n".encode()
        body = opening + with_id(first, vector_id(stream.mirrors, stream.versions))
        self._set_times(stream)
        if stream.transport is None:
            stream.context = copy_context()
        if not self._is_shared:
            bound_backlog(stream.transport)
        async with while_read(stream.transport, self.engine.settings.write_deadline):
            await stream.send({"type": "http.response.start", "status": 200, "headers": list(frames.SSE_HEADERS)})
            await stream.send({"type": "http.response.body", "body": body, "more_body": True})
        await self.engine.hub.catch_up(stream)

    def _set_times(self, stream: Stream) -> None:
        settings, now = self.engine.settings, asyncio.get_running_loop().time()
        stream.last_write = now
        stream.ends_at = now + settings.max_stream_age * random.uniform(0.8, 1.0)
        stream.ends_at = min(stream.ends_at, now + max(0.0, self.context.session_expires_at_s - time.time()))
        identity = self.context.identity
        if identity is not None and identity.expires_at is not None:
            stream.ends_at = min(stream.ends_at, now + max(0.0, identity.expires_at.timestamp() - time.time()))
        stream.recheck_at = now + settings.reauthenticate
        stream.recheck = self._recheck

    async def _recheck(self, stream: Stream) -> None:
        """End the stream if its request would be refused, or would watch something else, by now."""
        scope = self.context.detached_scope()
        context = RequestContext(self.engine, scope, "stream")
        opening = StreamOpening(self.engine, context, scope)
        failures = 0
        try:
            async with asyncio.timeout(RECHECK_DEADLINE_S):
                still = {key for _, key in await opening.wanted()}
            is_allowed = still == {mirror.key for mirror in stream.mirrors}
        except (Exception, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError) and is_cancelled():
                raise
            is_allowed = not is_final(exc)
            if is_allowed and not isinstance(exc, RequestError):  # such as a store that is down
                failures = stream.failed_rechecks + 1
                is_allowed = failures < MAX_FAILED_RECHECKS
                outcome = "is asked again" if is_allowed else "is not known, and the stream is ended"
                logger.error("whether a stream may still be watched %s", outcome, exc_info=exc)
        stream.failed_rechecks = failures
        stream.recheck_at = asyncio.get_running_loop().time() + self.engine.settings.reauthenticate
        if not is_allowed:
            stream.end(retry_ms=200)

    async def _finish(self, stream: Stream) -> None:
        """Write when to come back and that the page is cut off meanwhile, and end the response."""
        status = frames.signals({"_faststate": {"connected": False, "live": ""}})
        last = f"retry: {stream.retry_ms}\n\n".encode() + status
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(1):
                if stream.writer is not None:
                    await asyncio.wait([stream.writer])
                stream.is_blocked = True
                await stream.send({"type": "http.response.body", "body": last, "more_body": False})
        if stream.writer is not None:
            stream.writer.cancel()
            stream.abort()


def is_final(exc: BaseException) -> bool:
    """Whether a stream is refused for good: a retry cannot mend it, and one that is open ends."""
    is_refused = isinstance(exc, HTTPException) and exc.status_code in FINAL_STATUSES
    return is_refused or isinstance(exc, AuthenticationError)  # which may send pages to the login with 303
