"""``AskedEvent``: what one request for one event is answered. The way there is in ``event_request.py``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.responses import FileResponse, Response, StreamingResponse

from . import echo, frames, order
from .answers import Rendered, render
from .context import RequestContext
from .echo import HEADER, Typed, typed_of
from .errors import AuthenticationError
from .incoming import Receive
from .keys import StateKey
from .plans import StatePlan
from .responses import (
    PROBLEM_HEADERS,
    Headers,
    Send,
    check_sendable,
    describe,
    error_frame,
    header_items,
    location,
    problem_body,
)
from .routes import Route
from .signals import signal_path
from .stores.base import NO_VERSION, Answer
from .turns import Prepared
from .updates import Update, everything, unchanged

if TYPE_CHECKING:
    from .engine import FastState

logger = logging.getLogger("faststate.events")

NO_STORE = (b"cache-control", b"no-store")
_NOTHING_NEW: Headers = (NO_STORE,)
_NO_LIVE: frozenset[str] = frozenset()


class AskedEvent:
    """One request for one event as far as its answer depends on it; lives until it is answered.

    Args:
        engine: the engine.
        context: of the request.
        scope: of the request.
        route: the event.
        path_params: of a custom path.
    """

    key: StateKey
    arguments: dict[str, Any]
    # What most requests do not have is a default of the class.
    live = _NO_LIVE
    typed: Typed | None = None
    joined: tuple[tuple[StatePlan, StateKey], ...] = ()
    digest = b""
    version = NO_VERSION
    background: Any = None
    raw: Response | None = None

    def __init__(
        self, engine: FastState, context: RequestContext, scope: Any, route: Route, path_params: dict[str, Any] | None
    ) -> None:
        self.engine = engine
        self.context = context
        self.scope = scope
        self.route = route
        self.plan = route.plan
        self.spec = route.spec
        self.is_direct = route.is_direct
        self.is_alone = route.is_alone
        self.path_params = path_params
        headers = context.headers
        key, live = headers.get(b"idempotency-key"), headers.get(b"faststate-live")
        self.is_datastar = headers.get(b"datastar-request") == b"true"
        self.idempotency_key: str | None = None if key is None else key.decode("latin-1")
        if live is not None and live != b"undefined":
            self.live = frozenset(live.decode("latin-1").split(","))
        if self.spec.bound_field is not None:
            self.typed = typed_of(headers.get(HEADER))

    @property
    def wanted(self) -> list[tuple[StatePlan, StateKey]]:
        """All states that change together, the event's own first."""
        return [(self.plan, self.key), *self.joined]

    def committed(self, updates: Sequence[Update]) -> None:
        """Remember that this tab got values which its stream did not bring."""
        live, session_id = self.live, self.context.made_session_id
        if session_id is None or not self.is_datastar:
            return
        if not live or any(update.key.label not in live for update in updates):
            self.engine.hub.note_answered(session_id)

    def body(self, updates: list[Update], rendered: Rendered) -> bytes:
        """Return the frames for the asking page, in the order signals, fragments, elements, redirect or script."""
        parts = self._missed(updates)
        own_is_live = self.spec.options.broadcast and self.key.label in self.live
        if not own_is_live:
            parts += rendered.elements
        parts += rendered.last
        return b"".join(parts)

    def _missed(self, updates: list[Update]) -> list[bytes]:
        """Return the frames that no stream brings to the asking tab."""
        live = self.live
        if not live:
            return [frame for update in updates for frame in update.frames]
        missed = [update for update in updates if update.key.label not in live]
        return [frame for update in missed for frame in self._in_order(update)]

    def _in_order(self, update: Update) -> list[bytes]:
        """Return the frames of an update; a page that puts answers in order is told their place."""
        after = order.after_of(self.context.header(order.HEADER))
        return update.frames if after is None else update.frames_in_order(after)

    def render(self, prepared: Prepared, result: Any) -> Rendered:
        """Return what the handler returned as frames, and hand broadcast elements to the update of its state."""
        options = self.spec.options
        if result is None:
            return Rendered()
        rendered = render(result, options.selector, options.mode)
        if options.broadcast and rendered.elements:
            self._own(prepared).elements += tuple(rendered.elements)
        return rendered

    def _own(self, prepared: Prepared) -> Update:
        """Return the update of the event's own state, which may have stayed as it was."""
        for update in prepared.updates:
            if update.key == self.key:
                return update
        own = unchanged(self.plan, self.key, self.version)
        prepared.updates.append(own)
        return own

    def respond_one(self, update: Update | None) -> Answer:
        """Return the answer of an event that returned nothing and changed its own state, or nothing, and no other."""
        if update is None:
            return self._answer(b"")
        if self.live:
            return self._answer(b"" if update.key.label in self.live else b"".join(self._in_order(update)))
        parts = update.frames
        return self._answer(parts[0] if len(parts) == 1 else b"".join(parts))

    def respond(self, prepared: Prepared, result: Any) -> Answer:
        """Return the answer of an event that did not yield."""
        if isinstance(result, Response):
            return self._raw(result)
        if self.typed is not None:
            return self._answer(self._set_by(self.typed, prepared))
        if result is None:
            return self._answer(b"".join(self._missed(prepared.updates)))
        rendered = self.render(prepared, result)
        if rendered.response is not None:
            return self._raw(rendered.response)
        if rendered.redirect is not None and not self.is_datastar:
            return self._redirect(rendered.redirect)
        return self._answer(self.body(prepared.updates, rendered))

    def _set_by(self, typed: Typed, prepared: Prepared) -> bytes:
        """Return the frames for a tab that set a field, and tell its stream that this request is done."""
        field = self.spec.bound_field
        assert field is not None, "only setters are kept in order"
        path = ".".join((*signal_path(self.plan.namespace, self.key), field))
        own = self._own(prepared)
        note = echo.note_frame(path, typed)
        own.elements += (note,)
        parts: list[bytes] = []
        for update in prepared.updates:
            if update.key.label in self.live:
                continue
            if typed.is_own and self._has_sent(update, field):
                parts += update.frames_without(field)
            else:
                parts += self._in_order(update)
            if update is own:
                after = order.after_of(self.context.header(order.HEADER))
                parts.append(note if after is None else order.numbered(note, own.key.label, own.version, after))
        return b"".join(parts)

    def _has_sent(self, update: Update, field: str) -> bool:
        """Whether the asking page holds the new value of its field already."""
        return update.key == self.key and update.values.get(field) == self.arguments.get(field)

    def _answer(self, body: bytes) -> Answer:
        """Return the answer with these frames, 204 if there are none."""
        context = self.context
        if context.sets_no_cookie:
            context.is_started = True
            if body:
                return Answer(self.digest, 200, frames.ANSWER_HEADERS, body)
            return Answer(self.digest, 204, _NOTHING_NEW)
        if not body:
            return Answer(self.digest, 204, (NO_STORE, *self._session_headers()))
        return Answer(self.digest, 200, (*frames.ANSWER_HEADERS, *self._session_headers()), body)

    def _raw(self, response: Response) -> Answer:
        """Return a handler's own response as it is; of a file or a stream only the outcome can be remembered.

        Raises:
            ValueError: no server could send it.
        """
        check_sendable(response.status_code, response.raw_headers)
        headers = tuple((name, value) for name, value in response.raw_headers if name != b"content-length")
        headers = (*headers, *self.context.response_headers(headers))
        body = getattr(response, "body", None)
        if isinstance(response, (FileResponse, StreamingResponse)) or not isinstance(body, bytes):
            self.raw = response
            return Answer(self.digest, response.status_code, headers, None)
        self.background = response.background
        return Answer(self.digest, response.status_code, headers, body)

    async def without_body(self, answer: Answer) -> Answer:
        """Return what a repetition gets whose first answer was too large to keep: what the event's states hold now.

        The page is right then, but for what the event returned.
        """
        context = self.context
        is_ours = answer.status == 200 and answer.headers[:1] == frames.ANSWER_HEADERS[:1]
        if not is_ours or context.is_presented_revoked or not context.sets_no_cookie:
            return answer  # the states of a session that was made just now are not those of the first request
        parts: list[bytes] = []
        try:
            for plan, key in self.wanted:
                state = None if key.label in self.live else await context.get_or_none(plan.cls)
                if state is not None:
                    parts += self._in_order(everything(plan, key, state))
        except Exception as exc:  # of a fragment, or of the store: the event has run all the same
            logger.warning("a repetition of %s is answered without its states: %s", self.spec.path, exc)
        return answer._replace(body=b"".join(parts)) if parts else answer

    async def send_raw(self, receive: Receive, send: Send) -> None:
        """Send a response that a handler made as a file or a stream."""
        assert self.raw is not None, "respond() has met one"

        async def send_with_session(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = message["headers"]
                message = {**message, "headers": [*own, *self.context.response_headers(own)]}
            await send(message)

        await self.raw(self.scope, receive, send_with_session)

    def _redirect(self, url: str) -> Answer:
        headers = ((b"location", location(url)), NO_STORE, *self._session_headers())
        return Answer(self.digest, 303, headers, b"")

    def emit(self, prepared: Prepared, yielded: Any) -> bytes:
        """Return the body of what changed and what a generator yielded.

        Raises:
            TypeError: a response, for which it is too late.
        """
        rendered = self.render(prepared, yielded)
        if rendered.response is not None:
            raise TypeError(
                "a generator event cannot give a Response, because its answer is a stream: yield elements, Redirect or "
                "Script, or make the Response and return it from an event that does not yield"
            )
        return self.body(prepared.updates, rendered)

    def stream_headers(self) -> Headers:
        """Return the headers of a generator's response."""
        return (*frames.SSE_HEADERS, *self._session_headers())

    def _session_headers(self) -> Headers:
        """Return the headers that set a cookie, and what caches must know."""
        return tuple(item for item in self.context.response_headers() if item[0] != b"cache-control")

    def failed(self, exc: BaseException) -> Answer:
        """Return the answer of an exception, in the form that the client can read; this does not fail itself."""
        self.background = None  # of a response that is not sent
        try:
            return self._failure(exc)
        except Exception as unreadable:  # its text or a header of its own cannot be encoded, or not even be had
            return self._failure(RuntimeError(f"{type(exc).__name__}, told by {type(unreadable).__name__}"))

    def _failure(self, exc: BaseException) -> Answer:
        if isinstance(exc, AuthenticationError) and self.engine.settings.login_url is not None and self.is_datastar:
            body = frames.redirect(self._login_from_page())
            return Answer(self.digest, 200, (*frames.SSE_HEADERS, *self._session_headers()), body)
        problem, extra = describe(exc, self.spec.path, is_debug=self.engine.settings.debug)
        headers = (*header_items(extra), *self._session_headers())
        if self.is_datastar:
            return Answer(self.digest, 200, (*frames.SSE_HEADERS, *headers), error_frame(problem))
        return Answer(self.digest, problem["status"], (*PROBLEM_HEADERS, *headers), problem_body(problem))

    def _login_from_page(self) -> str:
        return self.context.login_target_from(self.context.header(b"referer"))
