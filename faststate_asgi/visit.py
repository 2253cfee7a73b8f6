"""``Visit``: one request and who makes it: session, identity, login and logout.

The states that the request may read and change are ``context.py``'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from starlette.requests import HTTPConnection

from .from_thread import run_from_thread
from .headers import is_of_program, joined_headers
from .identity import (
    Identity,
    SessionRecord,
    Ticket,
    authenticated,
    from_scope,
    logouts_of,
    mark_of,
    new_ticket,
    session_of_program,
)
from .keys import checked_id
from .messages import Ended

if TYPE_CHECKING:
    from typing import Self

    from .engine import FastState
    from .repeats import Claim

FROM_THREAD_S = 60.0
"""How long a worker thread waits for the event loop."""
_RESOLVE_FIRST = 'session and identity are not known yet: `await scope["faststate"].resolve()` first'
_SECURE_SCHEMES = frozenset({"https", "wss"})


class Visit:
    """Who makes one request, found when it is asked for; gone with the request.

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
    _mount_url: str | None = None
    is_started = False
    was_session_used = False
    """Whether the response depends on the session or the user."""
    is_presented_revoked = False
    presented_id: str | None = None
    made_session_id: str | None = None
    """The id of the session if there is one by now; none is made."""
    claim: Claim | None = None
    """That on the event, for a login or logout in it."""

    def __init__(self, engine: FastState, scope: Any, kind: Literal["page", "event", "stream"] = "page") -> None:
        self.engine = engine
        self._scope: Any = scope
        self._kind = kind
        raw = scope.get("headers", ())
        headers: dict[bytes, bytes] = dict(raw)
        self.headers = headers if len(headers) == len(raw) else joined_headers(raw)

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

    # -- session and identity ----------------------------------------------------------------------------------------

    async def resolve(self) -> Self:
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
        if who is not None and who is not self._login and self.made_session_id is None and is_of_program(self.headers):
            self.made_session_id = session_of_program(who.user_id)
        self._is_resolved = True

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
        if not self._is_resolved:
            run_from_thread(self.engine, self.resolve(), _RESOLVE_FIRST, FROM_THREAD_S)

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
        self._is_cleared, self.was_session_used = False, True
        self._forget()
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
        self.was_session_used = self._is_cleared = True
        self._forget()
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

    def _forget(self) -> None:
        """Let go of what was read for who asked until now; a visit alone has read nothing."""

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


def _names(value: Iterable[str] | str) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
