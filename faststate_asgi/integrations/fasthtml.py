"""FastHTML: ``auth_beforeware`` and FastHTML's own signed session as a source of identity.

States are injected by FastHTML's own ``__from_request__`` protocol, which ``ReactiveState`` implements.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# A session holds JSON, which isinstance() tells apart and leaves its content unknown.

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from itsdangerous import BadSignature, TimestampSigner
from starlette.requests import HTTPConnection

from ..errors import ConfigurationError, shorten
from ..identity import Identity


def auth_beforeware() -> Callable[[HTTPConnection], Any]:
    """Return a function for ``before=``: FastHTML's un-annotated ``auth`` parameter is then the user's id."""

    async def set_auth(req: HTTPConnection) -> None:
        context = req.scope.get("faststate")
        if context is None:
            raise ConfigurationError("auth_beforeware() needs the app to be wrapped in FastStateMiddleware")
        await context.resolve()
        req.scope["auth"] = context.auth

    set_auth.__annotations__ = {"req": HTTPConnection}
    return set_auth


def fasthtml_session_auth(app: Any, key: str = "auth") -> Callable[[HTTPConnection], Identity | str | None]:
    """Return an ``authenticate`` that reads FastHTML's own session cookie.

    ``sess[key] = user_id`` in a FastHTML login route is enough, for a text or a number. The value may also be a dict with
    ``user_id``, ``permissions`` and ``roles``. Anything else, such as ``True``, is nobody.

    Args:
        app: the FastHTML app (before it is wrapped).
        key: the entry of its session that holds the user.

    Raises:
        ConfigurationError: the app is no FastHTML app.
    """
    secret, name = getattr(app, "secret_key", None), getattr(app, "session_cookie", None)
    if not secret or not name:
        raise ConfigurationError(f"fasthtml_session_auth() takes the FastHTML app, not {shorten(type(app).__name__)}")
    signer = TimestampSigner(str(secret))
    max_age_s = _max_age_s(app)

    def authenticate(connection: HTTPConnection) -> Identity | str | None:
        return _identity(_session(connection, signer, name, max_age_s).get(key))

    return authenticate


def _max_age_s(app: Any) -> int:
    """Return for how long FastHTML's session middleware believes a cookie."""
    given = (middleware.kwargs for middleware in getattr(app, "user_middleware", ()))
    return next((kwargs["max_age"] for kwargs in given if kwargs.get("max_age")), 365 * 24 * 3600)


def _session(connection: HTTPConnection, signer: TimestampSigner, name: str, max_age_s: int) -> dict[str, Any]:
    """Return the content of a valid session cookie; empty without one, and with two, one of which was planted."""
    header = "; ".join(connection.headers.getlist("cookie"))
    pairs = (part.strip().partition("=") for part in header.split(";"))
    values = [value.strip('"') for key, _, value in pairs if key == name]
    if len(values) != 1:
        return {}
    try:
        data = json.loads(b64decode(signer.unsign(values[0].encode(), max_age=max_age_s)))
    except (BadSignature, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _identity(value: Any) -> Identity | str | None:
    """Return the identity that a session entry means."""
    if isinstance(value, dict):
        user_id = _user_id(value.get("user_id"))
        return user_id and Identity(user_id, _texts(value.get("permissions")), _texts(value.get("roles")))
    return _user_id(value)


def _user_id(value: Any) -> str | None:
    """Return a text or a number as a user id; whatever else an app keeps in its session names nobody."""
    return str(value) or None if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def _texts(value: Any) -> frozenset[str]:
    """Return permissions or roles as a set; a single text counts as one name."""
    return frozenset([value] if isinstance(value, str) else value or ())
