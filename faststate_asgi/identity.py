"""Who asks: ``Identity``, the session cookie, authenticators, and whether a guard is satisfied.

Owns the cookie's form and its signature. Records of logins are kept by a store; reading them is ``visit.py``'s.
"""

from __future__ import annotations

import inspect
import json
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Any, TypeAlias
from uuid import UUID

from itsdangerous import BadData, Signer
from itsdangerous.encoding import base64_decode, base64_encode
from starlette.authentication import AuthenticationBackend
from starlette.authentication import AuthenticationError as StarletteAuthenticationError
from starlette.requests import HTTPConnection

from .errors import AuthenticationError, AuthorizationError, ConfigurationError, shorten
from .guards import Guard

CLOCK_TOLERANCE_S = 600.0
_NO_IDS: Any = (bool, bytes, list, tuple, dict, set, frozenset)
"""Types whose text is nobody's id: two values that mean the same user, or two users, may not become one by it."""
_CACHED_COOKIES = 4096
_FOREIGN_HEADERS = 1024
_FOREIGN_HEADER_BYTES = 1024
_CACHED_HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True, init=False)
class Identity:
    """A logged-in user: id as text, permissions, roles, and when it ends (aware UTC, None for never).

    Args:
        user_id: any id that has a text form, but not an empty one; no bool and no collection.
        permissions: names; a single text is one name.
        roles: likewise.
        expires_at: without a time zone it is UTC.

    Raises:
        ValueError: no user id.
    """

    user_id: str
    permissions: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    expires_at: datetime | None = None

    def __init__(
        self,
        user_id: str | int | UUID,
        permissions: Iterable[str] | str | None = (),
        roles: Iterable[str] | str | None = (),
        expires_at: datetime | None = None,
    ) -> None:
        if user_id is None or str(user_id) == "":  # pyright: ignore[reportUnnecessaryComparison]  # not everybody checks
            raise ValueError("Identity needs a user_id; return None for an anonymous visitor")
        if isinstance(user_id, _NO_IDS):
            raise ValueError(f"Identity needs a user_id such as a text, a number or a UUID, not {shorten(user_id)}")
        object.__setattr__(self, "user_id", str(user_id))
        for name, value in (("permissions", permissions), ("roles", roles)):
            object.__setattr__(self, name, frozenset([value] if isinstance(value, str) else value or ()))
        if expires_at is not None and expires_at.tzinfo is None:
            expires_at = expires_at.replace(tzinfo=timezone.utc)
        object.__setattr__(self, "expires_at", expires_at)

    @property
    def is_expired(self) -> bool:
        """Whether ``expires_at`` has passed."""
        return self.expires_at is not None and self.expires_at <= datetime.now(timezone.utc)


Authenticator: TypeAlias = Callable[[HTTPConnection], Identity | str | None | Awaitable[Identity | str | None]]


def check_guard(guard: Guard, identity: Identity | None) -> None:
    """Let ``identity`` pass a guard's requirements, all but the owner's.

    Raises:
        AuthenticationError: nobody is logged in.
        AuthorizationError: who is logged in has none of the permissions or roles.
    """
    if guard.is_open:
        return
    if identity is None:
        raise AuthenticationError("Please log in first")
    if guard.permissions and not guard.permissions & identity.permissions:
        raise AuthorizationError("You do not have the permission for this")
    if guard.roles and not guard.roles & identity.roles:
        raise AuthorizationError("You do not have the role for this")


def as_identity(value: Any) -> Identity | None:
    """Return what an authenticator gave as an identity.

    Raises:
        ConfigurationError: it gave something else.
    """
    if value is None or isinstance(value, Identity):
        return None if value is None or value.is_expired else value
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return Identity(str(value)) if value != "" else None
    raise ConfigurationError(
        f"authenticate must return an Identity, a user id or None, not {shorten(type(value).__name__)}"
    )


def authenticated(authenticate: Any, connection: HTTPConnection) -> Identity | None | Awaitable[Identity | None]:
    """Return the identity that a callable or a Starlette ``AuthenticationBackend`` finds, awaitable if that takes time."""
    if isinstance(authenticate, AuthenticationBackend):
        return _of_backend(authenticate, connection)
    found = authenticate(connection)
    if found is None or isinstance(found, (Identity, str)) or not inspect.isawaitable(found):
        return as_identity(found)
    return _of_awaitable(found)


async def _of_backend(backend: AuthenticationBackend, connection: HTTPConnection) -> Identity | None:
    try:
        found = await backend.authenticate(connection)
    except StarletteAuthenticationError as exc:
        raise AuthenticationError("The credentials were not accepted") from exc
    return None if found is None else from_starlette(found[1], found[0].scopes)


async def _of_awaitable(found: Awaitable[Any]) -> Identity | None:
    return as_identity(await found)


def from_starlette(user: Any, scopes: Iterable[str]) -> Identity | None:
    """Return the identity in Starlette's ``scope["user"]`` and ``scope["auth"]``; scopes are permissions."""
    if not getattr(user, "is_authenticated", False):
        return None
    for name in ("identity", "id", "username", "display_name"):
        try:
            value = getattr(user, name)
        except (AttributeError, NotImplementedError):
            continue
        if value not in (None, ""):
            return Identity(str(value), frozenset(scopes), frozenset(getattr(user, "roles", ())))
    return None


def from_scope(scope: Mapping[str, Any]) -> Identity | None:
    """Return the identity that an outer ``AuthenticationMiddleware`` left in the scope."""
    user, auth = scope.get("user"), scope.get("auth")
    if isinstance(user, str):
        return Identity(user) if user else None
    return None if user is None else from_starlette(user, getattr(auth, "scopes", ()))


# -- the session cookie ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ticket:
    """What a valid session cookie says: a random token, when it was issued and last renewed (Unix seconds).

    ``session_id`` is the session of this token, which does not reveal it; ``record_name`` is where a store keeps what
    a login or logout made of it, and ``names`` are those of all that a store knows of it. ``mark`` stands for the user
    who logged in, empty for nobody. It is due to be set again if it is old, or was signed by an older key.
    """

    token: str = field(repr=False)
    issued_at_s: float
    renewed_at_s: float
    mark: str = ""
    is_due: bool = False
    session_id: str = field(init=False)
    record_name: str = field(init=False)
    names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.session_id = _digest(self.token)
        self.record_name = f"login:{self.session_id}"
        self.names = (self.record_name, logouts_of(self.mark)) if self.mark else (self.record_name,)


def new_ticket(mark: str = "") -> Ticket:
    """Return a ticket with 256 random bits."""
    now_s = float(int(time.time()))
    return Ticket(secrets.token_urlsafe(32), now_s, now_s, mark)


def mark_of(user_id: str) -> str:
    """Return what stands for a user in cookies and names of records: it is no user id, and always the same."""
    digest = blake2b(user_id.encode(), digest_size=16, person=b"faststate.user").digest()
    return urlsafe_b64encode(digest).decode().rstrip("=")


def logouts_of(mark: str) -> str:
    """Return the name of the record that ends all logins of a user that were made before it was written."""
    return f"logouts:{mark}"


def session_of_program(user_id: str) -> str:
    """Return the session of a client without cookies, such as one with an API key: one for each user."""
    return _digest(f"program {user_id}")


def new_session_id() -> str:
    """Return the id of a session that no cookie will name."""
    return _digest(secrets.token_urlsafe(32))


def _digest(token: str) -> str:
    return urlsafe_b64encode(blake2b(token.encode(), digest_size=24, person=b"faststate.sid").digest()).decode()


class SessionCookie:
    """Signs and verifies the session cookie; several keys: the first signs, all verify."""

    def __init__(self, keys: Iterable[str], name: str, *, idle_s: float, max_age_s: float) -> None:
        self._keys = list(keys)
        self._idle_s, self._max_age_s = idle_s, max_age_s
        self.name = name
        self.host_name = f"__Host-{name}"
        self._signer = Signer(
            list(reversed(self._keys)), salt="faststate.session", key_derivation="hmac", digest_method=sha256
        )
        self._newest = Signer(self._keys[0], salt="faststate.session", key_derivation="hmac", digest_method=sha256)
        # A ticket, since when and until when it is good, and in between from when it is due (Unix seconds).
        self._verified: dict[bytes, tuple[Ticket, float, float, float]] = {}
        self._foreign: dict[tuple[bytes, bool], None] = {}
        self._verified_https: dict[bytes, tuple[Ticket, float, float, float]] = {}

    def read(self, header: bytes | None, is_secure: bool) -> Ticket | None:
        """Return the ticket in a ``Cookie`` header; None without one, with two, or with one that does not verify.

        On https only the ``__Host-`` name counts: a sibling subdomain can set the other one. A ticket that is due was found
        to be so just now.
        """
        if header is None:
            return None
        verified = self._verified_https if is_secure else self._verified
        known = verified.get(header)
        if known is None:
            if (header, is_secure) in self._foreign:
                return None
            ticket = self._found(header, self.host_name if is_secure else self.name)
            if ticket is None:
                self._note_foreign(header, is_secure)
                return None
            due_s = ticket.renewed_at_s + self._idle_s / 14
            known = (ticket, ticket.issued_at_s - CLOCK_TOLERANCE_S, due_s, self.expires_at_s(ticket))
            if len(header) <= _CACHED_HEADER_BYTES:
                verified[header] = known
            if len(verified) > _CACHED_COOKIES:
                del verified[next(iter(verified))]
        ticket, since_s, due_s, until_s = known
        now_s = time.time()
        if not since_s <= now_s <= until_s:
            return None
        if now_s > due_s:
            ticket.is_due = True
        return ticket

    def _note_foreign(self, header: bytes, is_secure: bool) -> None:
        """Look at the same cookies of others only once, if they are few."""
        if len(header) <= _FOREIGN_HEADER_BYTES:
            self._foreign[header, is_secure] = None
            if len(self._foreign) > _FOREIGN_HEADERS:
                del self._foreign[next(iter(self._foreign))]

    def _found(self, header: bytes, name: str) -> Ticket | None:
        """Return the one ticket of this name in a header, None if it is not ours or not the only one."""
        pairs = (part.strip().partition(b"=") for part in header.split(b";"))
        values = [value.decode("latin-1") for key, _, value in pairs if key == name.encode()]
        return self._unsign(values[0]) if len(values) == 1 else None

    def renewed(self, ticket: Ticket) -> Ticket:
        """Return the ticket with a new date, signed by the newest key when it is set."""
        return replace(ticket, renewed_at_s=float(int(time.time())), is_due=False)

    def expires_at_s(self, ticket: Ticket) -> float:
        """Return when the cookie ends if it is not renewed (Unix seconds)."""
        return min(ticket.renewed_at_s + self._idle_s, ticket.issued_at_s + self._max_age_s)

    def _unsign(self, text: str) -> Ticket | None:
        if len(text) > 512:
            return None
        try:
            signature = text.rpartition(".")[2]
            # The last character of base64 has spare bits; only one spelling of a signature counts.
            if base64_encode(base64_decode(signature)).decode() != signature:
                return None
            token, issued, renewed, *rest = self._signer.unsign(text).decode("ascii").split(".")
            is_due = len(self._keys) > 1 and not self._newest.validate(text)
            return Ticket(token, float(int(issued, 36)), float(int(renewed, 36)), "".join(rest), is_due)
        except (BadData, ValueError, UnicodeError):
            return None

    def value(self, ticket: Ticket) -> str:
        """Return the cookie's value for a ticket."""
        times = f"{_base36(int(ticket.issued_at_s))}.{_base36(int(ticket.renewed_at_s))}"
        mark = f".{ticket.mark}" if ticket.mark else ""
        return self._signer.sign(f"{ticket.token}.{times}{mark}").decode()

    def header(self, ticket: Ticket | None, *, is_secure: bool) -> tuple[bytes, bytes]:
        """Return the ``Set-Cookie`` header that sets the ticket, or deletes the cookie for None."""
        name = self.host_name if is_secure else self.name
        value, age = ("", 0) if ticket is None else (self.value(ticket), int(self._idle_s))
        secure = "; Secure" if is_secure else ""
        return b"set-cookie", f"{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}".encode("latin-1")


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits or "0"


# -- records of logins -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What a store knows of a cookie after a login or logout.

    ``is_revoked`` makes the cookie worthless; else ``session_id`` is the session that it continues. ``generation`` is
    what the user's record of logouts held at the login; another one there ends this login.
    """

    session_id: str = ""
    identity: Identity | None = None
    is_revoked: bool = False
    generation: str = ""

    def dump(self) -> bytes:
        """Return the stored form."""
        who = self.identity
        document: dict[str, Any] = {
            "sid": self.session_id,
            "revoked": self.is_revoked,
            "generation": self.generation,
        }
        if who is not None:
            expires = None if who.expires_at is None else who.expires_at.isoformat()
            document["user"] = [who.user_id, sorted(who.permissions), sorted(who.roles), expires]
        return json.dumps(document).encode()

    @classmethod
    @lru_cache(maxsize=_CACHED_COOKIES)
    def load(cls, data: bytes) -> SessionRecord:
        """Return the record that ``dump`` wrote; what cannot be read counts as revoked."""
        try:
            document = json.loads(data)
            who = document.get("user")
            identity = who and Identity(
                who[0], frozenset(who[1]), frozenset(who[2]), who[3] and datetime.fromisoformat(who[3])
            )
            return cls(document["sid"], identity or None, document["revoked"], document["generation"])
        except (ValueError, KeyError, TypeError, IndexError):
            return cls(is_revoked=True)
