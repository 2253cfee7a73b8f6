"""``RequestContext``: what ``scope["faststate"]`` is. Session, identity, states and transactions of one request.

Everything is lazy. The four doors (reading, event, stream, transaction) all check by the two methods ``check`` and
``authorize`` of this class.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.requests import HTTPConnection

from .errors import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    LoginRedirect,
    MissingParameterError,
    NotResolvedError,
    OverloadedError,
    RequestError,
    StateNotFoundError,
    StoreUnavailableError,
)
from .guards import Guard
from .identity import (
    Identity,
    SessionRecord,
    Ticket,
    authenticated,
    check_guard,
    from_scope,
    logouts_of,
    mark_of,
    new_session_id,
    new_ticket,
    session_of_program,
)
from .keys import (
    StateKey,
    StateScope,
    checked_id,
    component_key,
    global_key,
    record_key,
    session_key,
    user_key,
)
from .messages import Ended
from .parameters import states_of
from .plans import StatePlan
from .state import ReactiveState
from .stores.base import Snapshot
from .turns import Entry

if TYPE_CHECKING:
    from .engine import FastState
    from .repeats import Claim

logger = logging.getLogger("faststate")

S = TypeVar("S", bound=ReactiveState)
Action = Literal["read", "write", "watch"]
Wanted = type[ReactiveState] | tuple[type[ReactiveState], Any]
_FROM_THREAD_S = 60.0
_PATH = "/:@!$&'()*+,;=~"
_SECURE_SCHEMES = frozenset({"https", "wss"})
_BROWSER_SCHEMES = frozenset({b"basic", b"digest", b"negotiate", b"ntlm"})
"""What a browser sends by itself, perhaps for a proxy in front of the app that asked for it."""
_BROWSER_HEADERS = (b"cookie", b"sec-fetch-site", b"datastar-request")


class RequestContext:
    """Session, identity and states of one request; made by the middleware, gone with the request.

    Args:
        engine: the engine that serves the request.
        scope: its ASGI scope.
        kind: what the request is; a stream never makes a session, an event always may.
    """

    # One is made for every request: what most of them do not have is a default of the class.
    _is_resolved = False
    _ticket: Ticket | None = None
    _to_set: Ticket | None = None
    _is_cleared = False
    _login: Identity | None = None
    _identity: Identity | None = None
    _ephemeral_id: str | None = None
    _states: dict[StateKey, ReactiveState] | None = None
    _ahead: dict[StateKey, Snapshot | None] | None = None
    _dumps: dict[StateKey, bytes] | None = None
    _mount_url: str | None = None
    is_started = False
    was_session_used = False
    """Whether the response depends on the session or the user."""
    is_presented_revoked = False
    presented_id: str | None = None
    made_session_id: str | None = None
    """The id of the session if there is one by now; none is made."""
    path_params: dict[str, Any] | None = None
    claim: Claim | None = None
    """That on the event, for a login or logout in it."""
    refused: RequestError | None = None

    def __init__(self, engine: FastState, scope: Any, kind: Literal["page", "event", "stream"] = "page") -> None:
        self.engine = engine
        self._scope: Any = scope
        self._kind = kind
        raw = scope.get("headers", ())
        headers: dict[bytes, bytes] = dict(raw)
        self.headers = headers if len(headers) == len(raw) else joined_headers(raw)

    def __repr__(self) -> str:
        return f"<RequestContext {'resolved' if self._is_resolved else 'not resolved'}>"

    def close(self) -> None:
        """Let go of the scope, which refers to this object; in debug, report copies that were changed in place."""
        self._mount_url = self.mount_url
        self._scope, self.refused = {}, None
        if self._dumps:
            self._report_changes()

    def _report_changes(self) -> None:
        for key, state in (self._states or {}).items():
            before = (self._dumps or {}).get(key)
            if before is not None and type(state).__faststate_codec__().dump(state) != before:
                logger.warning(
                    "%s was changed in place while a page was made; it is a read-only copy and the change is lost: "
                    "use an event or a transaction",
                    type(state).__name__,
                )

    def detached_scope(self) -> dict[str, Any]:
        """Return what a later check of the same caller needs of the scope."""
        return {name: value for name, value in self._scope.items() if name != "faststate"}

    # -- the request -------------------------------------------------------------------------------------------------

    def header(self, name: bytes) -> str | None:
        """Return a request header, None if it is missing."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def client_address(self) -> str:
        """The caller's address as the server knows it."""
        client = self._scope.get("client")
        return str(client[0]) if client else "unknown"

    @property
    def heartbeat_s(self) -> float:
        """The silence after which a stream sends something."""
        return self.engine.settings.heartbeat

    @property
    def mount_url(self) -> str:
        """Where the sub-application is for this request, quoted for a URL."""
        if self._mount_url is None:
            self._mount_url = self.engine.mount_url_of(self._scope)
        return self._mount_url

    @property
    def script_url(self) -> str:
        """Where the Datastar module comes from."""
        return self.engine.script_url(self.mount_url)

    @property
    def is_secure(self) -> bool:
        """Whether the request came by https, as far as the server knows."""
        return self._scope.get("scheme") in _SECURE_SCHEMES

    @property
    def is_page(self) -> bool:
        """Whether a browser asks for a page, as opposed to an event, a stream or a sub-resource."""
        is_read = self._scope.get("method", "GET") in ("GET", "HEAD")
        return is_read and "text/html" in (self.header(b"accept") or "") and self.header(b"datastar-request") is None

    def _query(self, name: str) -> str | None:
        query: str = self._scope.get("query_string", b"").decode("latin-1")
        return next((value for key, value in parse_qsl(query, keep_blank_values=True) if key == name), None)

    # -- session and identity ----------------------------------------------------------------------------------------

    async def resolve(self) -> RequestContext:
        """Find session and identity, once; everything below that is awaited does it by itself."""
        later = self.resolve_now()
        if later is not None:
            await later
        return self

    def resolve_now(self) -> Awaitable[None] | None:
        """Do of what ``resolve`` does all that need not wait; return the rest, None if session and identity are known."""
        if self._is_resolved:
            return None
        engine, scope = self.engine, self._scope
        records = engine.records_here
        if records is None:
            return self._resolve_later()
        header = self.headers.get(b"cookie")
        if header is not None:
            ticket = engine.cookie.read(header, scope.get("scheme") in _SECURE_SCHEMES)
            if ticket is not None:
                self._take_ticket(ticket, records.records_now(ticket.names))
        if self._login is None and engine.settings.authenticate is None and "user" not in scope:
            self._is_resolved = True  # nobody is logged in
            return None
        return self._identify()

    async def _resolve_later(self) -> None:
        """Read what is known of the cookie from a store that takes time, and find out who asks."""
        ticket = self.engine.cookie.read(self.headers.get(b"cookie"), self.is_secure)
        if ticket is not None:
            self._take_ticket(ticket, await self.engine.records.get_records(ticket.names))
        later = self._identify()
        if later is not None:
            await later

    def _identify(self) -> Awaitable[None] | None:
        """Find out who asks; return what has to be waited for."""
        authenticate, scope = self.engine.settings.authenticate, self._scope
        if authenticate is not None:
            found = authenticated(authenticate, HTTPConnection(scope))
            if found is not None and not isinstance(found, Identity):
                return self._await_identity(found)
            self._take_identity(found)
        elif self._login is not None or "user" in scope:
            self._take_identity(self._login or from_scope(scope))
        self._is_resolved = True
        return None

    async def _await_identity(self, found: Awaitable[Identity | None]) -> None:
        self._take_identity(await found)

    def _take_identity(self, who: Identity | None) -> None:
        self._identity = who
        if who is not None and who is not self._login and self.made_session_id is None and self._is_program():
            self.made_session_id = session_of_program(who.user_id)
        self._is_resolved = True

    def _is_program(self) -> bool:
        """Whether a logged-in caller proves who it is with each request, and keeps no cookies."""
        scheme = self.headers.get(b"authorization", b"").partition(b" ")[0].lower()
        if scheme and scheme not in _BROWSER_SCHEMES:
            return True
        is_browser = any(name in self.headers for name in _BROWSER_HEADERS)
        return not is_browser and b"text/html" not in self.headers.get(b"accept", b"")

    def _take_ticket(self, ticket: Ticket, records: Sequence[bytes | None]) -> None:
        """Use a cookie, unless a logout or login made it worthless.

        Args:
            ticket: what the cookie says.
            records: of its login, and if the ticket names a user of that user's logouts everywhere.
        """
        session_id = self.presented_id = ticket.session_id
        data = records[0]
        if data is None:
            self._ticket = ticket
            self.made_session_id = session_id
        else:
            record = SessionRecord.load(data)
            logouts = records[1] if len(records) > 1 else None
            is_over = logouts is not None and logouts != record.generation.encode()
            if record.is_revoked or is_over:
                self.is_presented_revoked = True
                return
            self._ticket, self.made_session_id = ticket, record.session_id
            self._login = record.identity if record.identity and not record.identity.is_expired else None
        if ticket.is_due and (self._kind == "event" or self.is_page) and not self.is_started:
            self._to_set = self.engine.cookie.renewed(ticket)
            self.was_session_used = True

    def _resolved(self) -> None:
        """Make sure that ``resolve`` has run: at once in a worker thread, with an error on the event loop."""
        if self._is_resolved:
            return
        if is_on_loop():
            raise NotResolvedError('session and identity are not known yet: `await scope["faststate"].resolve()` first')
        self._from_thread(self.resolve())

    def _from_thread(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the engine's loop from a worker thread."""
        if is_on_loop():
            coroutine.close()
            raise NotResolvedError("this is the event loop: use `await State.aget(request)` in async handlers")
        return asyncio.run_coroutine_threadsafe(coroutine, self.engine.loop).result(_FROM_THREAD_S)

    @property
    def session_id(self) -> str | None:
        """The id of the session, made if a page or event needs one; None where none may be made."""
        self._resolved()
        self.was_session_used = True
        if self.made_session_id is None and self._can_make_session():
            ticket = self._to_set = self._ticket = new_ticket()
            self.made_session_id, self._is_cleared = ticket.session_id, False
        return self.made_session_id

    def _can_make_session(self) -> bool:
        mode = self.header(b"sec-fetch-mode")
        is_wanted = self._kind == "event" or (self._kind == "page" and mode in (None, "navigate"))
        return is_wanted and not self.is_started and self._scope.get("type") == "http"

    @property
    def cookie_id(self) -> str | None:
        """What the request's cookie is known by; logging out ends the streams that carry it."""
        return None if self._ticket is None else self._ticket.session_id

    @property
    def session_expires_at_s(self) -> float:
        """When the request's cookie ends (Unix seconds), infinity without one."""
        return float("inf") if self._ticket is None else self.engine.cookie.expires_at_s(self._ticket)

    @property
    def is_nobody(self) -> bool:
        """Whether the request came without a cookie of ours and without a login, and has made no session; asks for nothing."""
        return self.made_session_id is None and self.presented_id is None and self._identity is None

    @property
    def has_session(self) -> bool:
        """Whether the request came with a valid session."""
        self._resolved()
        return self.made_session_id is not None

    @property
    def identity(self) -> Identity | None:
        """Who is logged in, None for nobody."""
        self._resolved()
        self.was_session_used = True
        return self._identity

    @property
    def login_identity(self) -> Identity | None:
        """What ``login`` stored for this session; an ``authenticate`` of your own may fall back to it."""
        return self._login

    @property
    def user(self) -> str | None:
        """The id of who is logged in, None for nobody."""
        identity = self.identity
        return None if identity is None else identity.user_id

    @property
    def auth(self) -> str | None:
        """The same as ``user``."""
        return self.user

    async def login(
        self, user_id: Any, permissions: Iterable[str] | str = (), roles: Iterable[str] | str = ()
    ) -> Identity:
        """Log a user in: the session gets a new cookie and keeps its states, the old cookie is worthless from now on.

        Raises:
            RuntimeError: the response has begun, or this is a WebSocket, so no cookie can be set.
            ValueError: no user id.
        """
        await self.resolve()
        self._refuse_if_started("login")
        if self._scope.get("type") == "websocket":
            raise RuntimeError("login() cannot set a cookie in a WebSocket route; log in by an HTTP request before")
        if user_id is None:
            raise ValueError("login() needs a user id, not None; logout() ends a login")
        identity = Identity(user_id, frozenset(_names(permissions)), frozenset(_names(roles)))
        await self._keep_repetitions_out()
        is_other_user = self._login is not None and self._login.user_id != identity.user_id
        mark = mark_of(checked_id(identity.user_id, "user id"))
        logouts = (await self.engine.records.get_records((logouts_of(mark),)))[0]
        generation = "" if logouts is None else logouts.decode()
        ticket = new_ticket(mark)
        session_id = ticket.session_id if is_other_user or self.made_session_id is None else self.made_session_id
        ttl_s = self.engine.settings.session_max_age
        record = SessionRecord(session_id, identity, generation=generation)
        records = {ticket.record_name: (record.dump(), ttl_s)}
        old = self._ticket
        if old is not None:
            records[old.record_name] = (SessionRecord(is_revoked=True).dump(), ttl_s)
        await self.engine.records.put_records(records)
        self._ticket = self._to_set = ticket
        self.made_session_id, self._login, self._identity = session_id, identity, identity
        self._is_cleared, self.was_session_used, self._states = False, True, None
        if old is not None:
            await self.engine.end_streams(Ended(session=old.session_id))
        return identity

    async def logout(self, *, everywhere: bool = False) -> None:
        """Log out: every copy of the cookie is worthless, the session's states are gone, its streams end.

        Args:
            everywhere: whether all other sessions of the user end too, see ``FastState.logout_user``.

        Raises:
            RuntimeError: the response has begun, so the cookie cannot be deleted.
        """
        await self.resolve()
        self._refuse_if_started("logout")
        await self._keep_repetitions_out()
        if everywhere and self._identity is not None:
            await self.engine.logout_user(self._identity.user_id)
        ticket, session_id = self._ticket, self.made_session_id
        other = None if self._identity is self._login else self._identity
        self._ticket = self._to_set = self.made_session_id = self._login = self._identity = None
        self.was_session_used, self._states, self._is_cleared = True, None, True
        if ticket is not None and session_id is not None:
            revoked = SessionRecord(is_revoked=True).dump()
            await self.engine.records.put_records({ticket.record_name: (revoked, self.engine.settings.session_max_age)})
            await self.engine.clear_session_states(session_id)
            await self.engine.end_streams(Ended(session=ticket.session_id))
        if other is not None:  # found by other means than our cookie, which the streams may not carry
            await self.engine.end_streams(Ended(user_id=other.user_id))

    async def _keep_repetitions_out(self) -> None:
        """Let a repetition of the event wait at other processes, as the cookie that it brings is about to be worthless."""
        claim = self.claim
        if claim is not None and not claim.is_held:
            await claim.take()
            if self.is_started:  # the event's time was over meanwhile
                await claim.give_back()

    def _refuse_if_started(self, what: str) -> None:
        if self.is_started:
            raise RuntimeError(f"{what}() came after the response had begun; call it before the first yield")

    @property
    def sets_no_cookie(self) -> bool:
        """Whether the response neither sets nor deletes the session's cookie."""
        return self._to_set is None and not self._is_cleared

    def response_headers(self, present: Iterable[tuple[bytes, bytes]] = ()) -> list[tuple[bytes, bytes]]:
        """Return the headers that the use of a session asks for: cookie, ``Vary`` and ``Cache-Control``."""
        self.is_started = True
        result: list[tuple[bytes, bytes]] = []
        if self._to_set is not None:
            result.append(self.engine.cookie.header(self._to_set, is_secure=self.is_secure))
        elif self._is_cleared:
            result.append(self.engine.cookie.header(None, is_secure=self.is_secure))
        if self.was_session_used:
            names = {name.lower() for name, _ in present}
            result.append((b"vary", b"Cookie"))
            if b"cache-control" not in names:
                result.append((b"cache-control", b"no-store"))
        return result

    # -- keys and doors ----------------------------------------------------------------------------------------------

    def key_of(self, plan: StatePlan, record_id: Any = None, component_id: Any = None) -> StateKey:
        """Return the key of a class's state in this request.

        Raises:
            MissingParameterError: no record or component id.
            AuthenticationError: a user state and nobody is logged in.
        """
        scope = plan.scope
        if scope is StateScope.SESSION:
            self.was_session_used = True
            return session_key(plan.name, self.made_session_id or self._session_or_ephemeral())
        if scope is StateScope.GLOBAL:
            return global_key(plan.name)
        match scope:
            case StateScope.USER:
                user = self.user
                if user is None:
                    raise AuthenticationError("Please log in first")
                return user_key(plan.name, plan.row_id(checked_id(user, "user id")))
            case StateScope.COMPONENT:
                own = self._own_id(plan, component_id, ("component_id",), ("component_id",))
                return component_key(plan.name, self._session_or_ephemeral(), own)
            case StateScope.RECORD:
                named = dict.fromkeys(name for name in (plan.config.record_key, "record_id") if name)
                own = self._own_id(plan, record_id, (*named, "id"), tuple(named))
                return record_key(plan.name, plan.row_id(own))

    def _session_or_ephemeral(self) -> str:
        """Return the session's id; where none may be made, one that lives as long as the request."""
        session_id = self.session_id
        if session_id is None:
            if self._ephemeral_id is None:
                self._ephemeral_id = new_session_id()
            return self._ephemeral_id
        return session_id

    def _own_id(self, plan: StatePlan, given: Any, in_path: tuple[str, ...], in_query: tuple[str, ...]) -> str:
        """Return a record or component id: given, else from the path, else from the query."""
        if given is None:
            path: Any = self.path_params or self._scope.get("path_params") or {}
            given = next((path[name] for name in in_path if path.get(name) is not None), None)
        if given is None:
            given = next((value for name in in_query if (value := self._query(name)) is not None), None)
        if given is None:
            raise MissingParameterError(f"{plan.name} needs the parameter {plan.id_parameter!r} in the path or query")
        return checked_id(str(given), plan.id_parameter)

    async def check(self, guard: Guard) -> None:
        """Let the caller pass or raise; a page with ``login_url`` is sent there."""
        await self.resolve()
        self.check_now(guard)

    def check_now(self, guard: Guard) -> None:
        """Let the caller pass or raise, once ``resolve`` has run."""
        if guard.is_open:
            return
        try:
            check_guard(guard, self.identity)
        except AuthenticationError as exc:
            raise self.refusal(exc) from None

    def check_from_thread(self, guard: Guard) -> None:
        """Do the same from a worker thread."""
        self._resolved()
        self.check_now(guard)

    def refusal(self, exc: AuthenticationError) -> AuthenticationError:
        """Return the error as this request should get it: a redirect for a page with ``login_url``."""
        login_url = self.engine.settings.login_url
        if login_url is None or not self.is_page or isinstance(exc, LoginRedirect):
            return exc
        return LoginRedirect(str(exc.detail), headers={"Location": self.login_target()})

    def login_target(self) -> str:
        """Return ``login_url`` with a ``next`` that leads back to this request's page, on this site only."""
        query: str = self._scope.get("query_string", b"").decode("latin-1")
        path: str = self._scope.get("path", "/")
        return with_next(self._login_url(), quote(path.lstrip("/\\"), safe=_PATH), query)

    def _login_url(self) -> str:
        """Return ``login_url`` below ``root_path``."""
        login_url = self.engine.settings.login_url or "/"
        root_path: str = self._scope.get("root_path", "").rstrip("/")
        return root_path + login_url if login_url.startswith("/") else login_url

    def login_target_from(self, referer: str | None) -> str:
        """Return ``login_url`` with a ``next`` that leads back to the page an event came from, on this site only."""
        login_url = self._login_url()
        parts = urlsplit(referer or "")
        if parts.netloc != self.header(b"host") or not parts.path.startswith("/"):
            return login_url
        return with_next(login_url, quote(parts.path, safe=f"{_PATH}%"), parts.query)

    async def authorize(
        self, plan: StatePlan, state: ReactiveState, action: Action, *, owner_only: bool = False
    ) -> None:
        """Check owner and ``authorize`` on a loaded state; the guard was checked before.

        Raises:
            AuthenticationError: nobody is logged in.
            AuthorizationError: not for this user.
        """
        config = plan.config
        if config.owner_field is None and config.authorize is None and not owner_only:
            return
        if config.owner_field is not None or owner_only:
            owner, user = plan.owner_of(state), self.user
            if user is None:
                raise self.refusal(AuthenticationError("Please log in first"))
            if owner is None or owner != user:
                raise AuthorizationError("This belongs to somebody else")
        if config.authorize is not None:
            assert state.key is not None, "loaded states have keys"
            result = config.authorize(self.identity, state.key, action)
            if not (await result if inspect.isawaitable(result) else result):
                if self.identity is None:
                    raise self.refusal(AuthenticationError("Please log in first"))
                raise AuthorizationError("You may not do this")

    # -- states ------------------------------------------------------------------------------------------------------

    async def get(self, cls: type[S], *, record_id: Any = None, component_id: Any = None) -> S:
        """Return the read-only copy of a state in this request; the same object each time.

        Raises:
            AuthenticationError, AuthorizationError: not for this caller.
            MissingParameterError: no record or component id.
            StateNotFoundError: never created, and there is no default.
        """
        await self.resolve()
        plan = self.engine.registry.plan(cls)
        self.check_now(plan.guard)
        key = self._key_or_refusal(plan, record_id, component_id)
        if self._states is None:
            self._states = {}
        known = self._states.get(key)
        if known is None:
            if self._ahead is not None and key in self._ahead:
                known = self.engine.load(plan, self._ahead.pop(key), key)
            else:
                known = await self.engine.read(plan, key)
            if known is None:
                raise StateNotFoundError(f"{plan.name} does not exist")
            await self.authorize(plan, known, "read")
            first = self._states.setdefault(key, known)
            if first is not known:
                return first  # type: ignore[return-value]  # asked for at the same time, and read sooner
            if self.engine.settings.debug:
                self._dumps = {**(self._dumps or {}), key: plan.codec.dump(known)}
        return known  # type: ignore[return-value]  # loaded for cls

    async def read_ahead(self, cls: type[ReactiveState]) -> None:
        """Read, once and in one round trip, all states that the route asks for in its signature, before the first is given.

        What cannot be read ahead, or may not be, is left to ``get``.
        """
        if self._ahead is not None:
            return
        self._ahead = {}
        classes = states_of(self._scope.get("endpoint"))
        if len(classes) < 2 or cls not in classes:
            return
        await self.resolve()
        wanted: dict[StateKey, StatePlan] = {}
        store = self.engine.backends.store_of(self.engine.registry.plan(cls))
        for other in classes:
            plan = self.engine.registry.plan(other)
            if self.engine.backends.store_of(plan) is store:
                with suppress(RequestError):
                    self.check_now(plan.guard)
                    wanted[self.key_of(plan)] = plan
        with suppress(StoreUnavailableError):
            self._ahead.update(zip(wanted, await store.read(list(wanted)), strict=True))

    def _key_or_refusal(self, plan: StatePlan, record_id: Any, component_id: Any) -> StateKey:
        plan.check_own_id(record_id if component_id is None else component_id)
        try:
            return self.key_of(plan, record_id, component_id)
        except AuthenticationError as exc:
            raise self.refusal(exc) from None

    async def get_injected(self, request: Any, cls: type[S]) -> S:
        """Return what ``get_for`` returns, for a parameter of a route."""
        if self.path_params is None:
            self.path_params = _path_params_of(request)
        await self.read_ahead(cls)
        return await self.get_for(request, cls)

    async def get_for(self, request: Any, cls: type[S], *, record_id: Any = None, component_id: Any = None) -> S:
        """Return what ``get`` returns, for a route of any framework.

        Quart and Django keep the parameters of the path in the request, and make a 500 of a refusal that they do not
        know: the middleware puts that right.
        """
        if self.path_params is None:
            self.path_params = _path_params_of(request)
        try:
            return await self.get(cls, record_id=record_id, component_id=component_id)
        except RequestError as exc:
            self.refused = exc
            raise

    def get_from_thread(self, request: Any, cls: type[S], *, record_id: Any = None, component_id: Any = None) -> S:
        """Return what ``get_for`` returns, in a worker thread."""
        state: S = self._from_thread(self.get_for(request, cls, record_id=record_id, component_id=component_id))
        return state

    async def get_or_none(self, cls: type[S], *, record_id: Any = None, component_id: Any = None) -> S | None:
        """Return what ``get`` returns, or None where the caller may not see it."""
        try:
            return await self.get(cls, record_id=record_id, component_id=component_id)
        except (AuthenticationError, AuthorizationError, StateNotFoundError):
            return None

    @asynccontextmanager
    async def transaction(
        self, *wanted: Wanted, record_id: Any = None, component_id: Any = None
    ) -> AsyncGenerator[Any]:
        """Give private copies of states that change together when the block ends, and not if it raises.

        Args:
            wanted: a class, or several; ``(Product, 42)`` names a record or component.
            record_id: for a single class.
            component_id: for a single class.

        Yields:
            The state, or a tuple of states.
        """
        if self.engine.runtime.is_draining:
            raise OverloadedError("The server is stopping; please try again", headers={"Retry-After": "1"})
        await self.resolve()
        pairs: list[tuple[StatePlan, StateKey]] = []
        for plan, own_id in unpacked(self.engine.registry.plan, wanted, record_id, component_id):
            self.check_now(plan.guard)
            is_record = plan.scope is StateScope.RECORD
            pairs.append(
                (plan, self._key_or_refusal(plan, own_id if is_record else None, None if is_record else own_id))
            )
        async with self.engine.runtime.transaction(pairs, self._check_write) as states:
            yield states[0] if len(states) == 1 else tuple(states)
        if self._states is not None:
            for _, key in pairs:
                self._states.pop(key, None)
        self._ahead = None if self._ahead is None else {}

    async def _check_write(self, entry: Entry) -> None:
        await self.authorize(entry.plan, entry.state, "write")

    async def delete(self, cls: type[ReactiveState], *, record_id: Any = None, component_id: Any = None) -> None:
        """Delete a stored state; pages that watch it get the defaults."""
        async with self.transaction(cls, record_id=record_id, component_id=component_id) as state:
            state.delete()


def joined_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by name; what was sent twice is joined (RFC 9110 5.3), cookies by a semicolon."""
    headers: dict[bytes, bytes] = {}
    for name, value in raw:
        known = headers.get(name)
        headers[name] = value if known is None else known + (b"; " if name == b"cookie" else b", ") + value
    return headers


def _path_params_of(request: Any) -> dict[str, Any] | None:
    """Return what Quart or Django found in the path; None where the scope has it."""
    match = getattr(request, "resolver_match", None)
    found = getattr(request, "view_args", None) if match is None else match.kwargs
    return found or None


def with_next(login_url: str, path: str, query: str) -> str:
    """Return a login address with a ``next`` that no browser reads as another site.

    Args:
        login_url: the login page.
        path: of the page to come back to, percent-encoded, so that no control character is in it.
        query: of that page, as it was sent.
    """
    target = "/" + path.lstrip("/") + (f"?{query}" if query else "")
    return f"{login_url}{'&' if '?' in login_url else '?'}next={quote(target, safe='/')}"


def unpacked(
    plan_of: Any, wanted: tuple[Wanted, ...], record_id: Any, component_id: Any
) -> list[tuple[StatePlan, Any]]:
    """Return each class of a transaction with its record or component id.

    Raises:
        ConfigurationError: no class at all, or an id that belongs to none of several.
    """
    if not wanted:
        raise ConfigurationError("transaction() needs at least one state class")
    single = record_id if record_id is not None else component_id
    if single is not None and len(wanted) > 1:
        raise ConfigurationError("with several states write (State, id) instead of record_id=")
    result: list[tuple[StatePlan, Any]] = []
    for item in wanted:
        cls, own_id = item if isinstance(item, tuple) else (item, single)
        result.append((plan_of(cls), own_id))
    return result


def _names(value: Iterable[str] | str) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def is_on_loop() -> bool:
    """Whether this code runs on an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
