"""``EventRequest``: one HTTP request for one event, as the ``Call`` that the runtime runs, and what it is answered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from . import echo, frames, order
from .answers import Rendered, render
from .binding import Binder, binder_of
from .context import RequestContext
from .echo import HEADER, Typed, typed_of
from .errors import AuthenticationError, AuthorizationError, BadRequestError, StateNotFoundError
from .events import EventSpec
from .identity import check_guard, mark_of
from .incoming import Incoming, Receive
from .keys import StateKey
from .parameters import Injected, Source
from .plans import StatePlan
from .repeats import Claim
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
from .signals import Signals, signal_path
from .state import ReactiveState
from .stores.base import NO_VERSION, Answer
from .turns import Prepared, Turn
from .updates import Update, everything, unchanged

if TYPE_CHECKING:
    from .engine import FastState

logger = logging.getLogger("faststate.events")

MAX_KEY_CHARS = 64
NO_STORE = (b"cache-control", b"no-store")
_NOTHING_NEW: Headers = (NO_STORE,)
_NO_LIVE: frozenset[str] = frozenset()
NOTHING = Incoming()


class Route:
    """What all requests for one event of one registered class have in common; made with the first of them.

    Args:
        plan: the class.
        spec: the event.
    """

    def __init__(self, plan: StatePlan, spec: EventSpec) -> None:
        self.plan, self.spec = plan, spec
        self.binder: Binder = binder_of(spec)
        self.tail = f":{spec.path}:"
        config, guard = plan.config, spec.options.guard
        self.is_open = plan.guard.is_open and guard.is_open
        self.is_limited = plan.rate is not None or spec.options.rate_limit is not None
        self.is_generator = spec.is_generator
        self.is_alone = self.binder.is_alone
        self.injected = self.binder.injected
        self.is_direct = (
            self.binder.is_direct and not guard.owner_only and config.owner_field is None and config.authorize is None
        )


class EventRequest:
    """One request for one event; lives until it is answered.

    Args:
        engine: the engine.
        context: of the request.
        scope: of the request.
        route: the event.
        path_params: of a custom path.
    """

    # What most requests do not have is a default of the class.
    live = _NO_LIVE
    typed: Typed | None = None
    claim: Claim | None = None
    incoming = NOTHING
    names: tuple[str, ...] = ()
    joined: tuple[tuple[StatePlan, StateKey], ...] = ()
    optional: frozenset[StateKey] = frozenset()
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

    # -- before the turn ---------------------------------------------------------------------------------------------

    def pass_gates(self) -> None:
        """Pass every gate that comes before the data; session and identity are known.

        Raises:
            RequestError: at the first gate that refuses.
        """
        context, route, idempotency_key = self.context, self.route, self.idempotency_key
        if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_KEY_CHARS:
            raise BadRequestError(f"Idempotency-Key must have 1 to {MAX_KEY_CHARS} characters")
        if not route.is_open:
            check_guard(self.plan.guard, context.identity)
            check_guard(self.spec.options.guard, context.identity)
        session_id = context.made_session_id
        self.key = context.key_of(self.plan)
        self.owner = context.made_session_id or ""
        if idempotency_key is not None:
            if session_id is not None and context.presented_id in (session_id, None):
                # With its own cookie, or a program, which has one session for each user.
                self.names = (session_id + route.tail + idempotency_key,)
            elif context.is_nobody:
                self.names = (route.tail + idempotency_key,)
            else:
                self.names = self._names(route.tail + idempotency_key)
                if session_id is None and context.made_session_id is not None and self.engine.records_here is None:
                    # The same click at another process makes a session of its own there.
                    self.claim, self.is_alone = self.engine.new_claim(self.names[-1]), True
        if route.is_limited:
            self.engine.limit_rate(self.plan, self.spec, session_id or context.client_address)

    def _names(self, tail: str) -> tuple[str, ...]:
        """Return under which names the answer is remembered if the session is not the presented one.

        A first click has no session yet, and a click that logs in or out makes its own cookie worthless; the repetition
        may come with the old cookie or the new one, so it is found under both.
        """
        session_id, presented_id = self.context.made_session_id, self.context.presented_id
        user = self.context.user
        stranger = "" if user is None else mark_of(user)
        owners = dict.fromkeys(owner for owner in (session_id, presented_id or stranger) if owner is not None)
        return tuple(owner + tail for owner in owners)

    def take(self, incoming: Incoming) -> None:
        """Check the data and bind it; what the runtime needs is known then.

        Raises:
            RequestError: an argument, or another state, that is refused.
        """
        self.incoming, binder = incoming, self.route.binder
        if self.path_params:
            incoming.path = self.path_params
            incoming.digest += repr(sorted(self.path_params.items())).encode()
        self.digest = incoming.digest
        self.arguments = binder.bind(incoming)
        if binder.joins:
            self._join(binder.joins)

    def _join(self, joins: Sequence[Injected]) -> None:
        """Find the other states that change together with the event's own; an optional one that is refused does not."""
        required, optional = list[tuple[StatePlan, StateKey]](), list[tuple[StatePlan, StateKey]]()
        for item in joins:
            if not item.is_optional:
                required.append(self._joined(item))
                continue
            with suppress(AuthenticationError, AuthorizationError):
                optional.append(self._joined(item))
        self.joined = (*required, *optional)
        self.optional = frozenset(key for _, key in optional).difference(key for _, key in required)

    def _joined(self, item: Injected) -> tuple[StatePlan, StateKey]:
        assert item.state is not None, "joined parameters name a state"
        plan = self.engine.registry.plan(item.state)
        check_guard(plan.guard, self.context.identity)
        return plan, self.context.key_of(plan)

    @property
    def wanted(self) -> list[tuple[StatePlan, StateKey]]:
        """All states that change together, the event's own first."""
        return [(self.plan, self.key), *self.joined]

    def late_names(self) -> tuple[str, ...]:
        """Return the name under which the next request of the session that the handler made finds the answer."""
        session_id = self.context.made_session_id
        if session_id is None or session_id == self.owner:
            return ()
        return (f"{session_id}{self.route.tail}{self.idempotency_key}",)

    def order_name(self) -> str:
        """Return the name under which the newest request of this tab for this field is remembered."""
        assert self.typed is not None, "only setters are kept in order"
        return f"typed:{self.typed.tag}:{self.spec.bound_field}:{self.key}"

    # -- in the turn -------------------------------------------------------------------------------------------------

    async def prepare(self, turn: Turn) -> tuple[ReactiveState, dict[str, Any]]:
        """Load the states, check the caller's right to them, and complete the arguments."""
        for plan, key in self.wanted:
            try:
                await self._load(turn, plan, key)
            except (AuthenticationError, AuthorizationError, StateNotFoundError):
                if key not in self.optional or key == self.key:
                    raise
                turn.entries.pop(key, None)
                self.joined = tuple(pair for pair in self.joined if pair[1] != key)
        own = turn.entries[self.key]
        self.version = own.version
        if self.route.injected:
            return own.state, {**self.arguments, **await self._injected(turn)}
        return own.state, self.arguments

    async def _load(self, turn: Turn, plan: StatePlan, key: StateKey) -> None:
        """Load a state and check the caller's right to it."""
        entry = turn.load(plan, key)
        config = plan.config
        owner_only = plan is self.plan and self.spec.options.guard.owner_only
        if owner_only or config.owner_field is not None or config.authorize is not None:
            await self.context.authorize(plan, entry.state, "write", owner_only=owner_only)

    def prepare_now(self, turn: Turn) -> tuple[ReactiveState, dict[str, Any]]:
        """Do what ``prepare`` does, for a call that is direct."""
        own = turn.load(self.plan, self.key)
        self.version = own.version
        if self.route.injected:
            simple = {item.name: self._simple(item.source) for item in self.route.injected}
            return own.state, {**self.arguments, **simple}
        return own.state, self.arguments

    async def _injected(self, turn: Turn) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for item in self.route.injected:
            match item.source:
                case Source.WRITABLE:
                    result[item.name] = self._writable(turn, item)
                case Source.STATE:
                    assert item.state is not None, "state parameters name a state"
                    getter = self.context.get_or_none if item.is_optional else self.context.get
                    result[item.name] = await getter(item.state)
                case Source.DATABASE | Source.ASYNC_DATABASE:
                    if turn.session is None:
                        is_async = item.source is Source.ASYNC_DATABASE
                        turn.session = self.engine.database_session(is_async=is_async)
                    result[item.name] = turn.session.for_handler
                case _:
                    result[item.name] = self._simple(item.source)
        return result

    def _writable(self, turn: Turn, item: Injected) -> ReactiveState | None:
        """Return a state that changes together with the event's own; None for an optional one that was refused."""
        with suppress(AuthenticationError, AuthorizationError):
            _, key = self._joined(item)
            entry = turn.entries.get(key)
            if entry is not None:
                return entry.state
        return None

    def _simple(self, source: Source) -> Any:
        """Return an injected value that needs no waiting."""
        match source:
            case Source.REQUEST:
                return self._request()
            case Source.IDENTITY:
                return self.context.identity
            case Source.CONTEXT:
                self._lend_claim()
                return self.context
            case Source.SIGNALS:
                return Signals(self.incoming.signals)
            case Source.KEY:
                return self.key
            case Source.AUTH:
                return self.context.auth
            case _:
                return self.scope.get("session", {})

    def _request(self) -> Request:
        """Return the request; what was read of its body can be read again, but for uploads only as a form."""
        body = self.incoming.body
        self._lend_claim()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        request = Request({**self.scope, "faststate": self.context}, receive)
        if self.incoming.form is not None:
            request._form = self.incoming.form  # pyright: ignore[reportPrivateUsage]  # parsed already
        return request

    def _lend_claim(self) -> None:
        """Let the handler's login or logout take the claim on this request."""
        if self.names and self.engine.records_here is None:
            if self.claim is None:
                self.claim = self.engine.new_claim(self.names[-1])
            self.context.claim = self.claim

    def committed(self, updates: Sequence[Update]) -> None:
        """Remember that this tab got values which its stream did not bring."""
        live, session_id = self.live, self.context.made_session_id
        if session_id is None or not self.is_datastar:
            return
        if not live or any(update.key.label not in live for update in updates):
            self.engine.hub.note_answered(session_id)

    # -- after the handler -------------------------------------------------------------------------------------------

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
            own = next((update for update in prepared.updates if update.key == self.key), None)
            if own is None:
                own = unchanged(self.plan, self.key, self.version)
                prepared.updates.append(own)
            own.elements += tuple(rendered.elements)
        return rendered

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
        own = next((update for update in prepared.updates if update.key == self.key), None)
        if own is None:
            own = unchanged(self.plan, self.key, self.version)
            prepared.updates.append(own)
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
