"""Every exception that the package raises on purpose, and the HTTP status each one means.

::

    FastStateError                      500  base of all
    ├── ConfigurationError (ValueError)      a setting, class or registration that cannot work
    │   └── MissingDependencyError           an optional package is not installed
    ├── NestedTurnError (RuntimeError)       a turn inside a turn on a key that is not part of it
    ├── NotResolvedError (RuntimeError)      session or identity used before ``await resolve()``
    ├── ReadOnlyStateError (AttributeError)  a page's read-only copy was assigned to
    ├── InvalidStateError (ValueError)       a handler left a value in a state that its field refuses
    └── RequestError (HTTPException)         what a request can be refused with
        ├── BadRequestError (ValueError)         400
        │   └── MissingParameterError            400  no record or component id
        ├── AuthenticationError (PermissionError) 401
        ├── AuthorizationError (PermissionError) 403
        │   └── CrossSiteError                   403  the request comes from another origin
        ├── StateNotFoundError (LookupError)     404
        ├── ConflictError (ValueError)           409  a table refuses a row
        ├── LeaseLostError (RuntimeError)        409
        ├── BodyTooLargeError (ValueError)       413
        ├── ArgumentError (ValueError)           422
        ├── RateLimitedError (RuntimeError)      429
        ├── OverloadedError (RuntimeError)       503
        ├── StoreUnavailableError (ConnectionError) 503
        └── TurnTimeoutError (TimeoutError)      504

Request errors are Starlette ``HTTPException``s, so FastHTML, Starlette and FastAPI answer with the right status by
themselves. All of them pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from starlette.exceptions import HTTPException

_SHORT = 80


def shorten(value: object) -> str:
    """Return the ``repr`` of ``value`` cut to a length that fits in a message."""
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"


_KINDS: Mapping[type, str] = {bool: "True or False", float: "a number", str: "text"}


def check_kind(kind: type[bool] | type[float] | type[str], values: Mapping[str, object], where: str = "") -> None:
    """Refuse values of another type: whoever uses no type checker may pass anything.

    Args:
        kind: ``float`` stands for whole numbers too.
        values: by name, for the message.
        where: what comes before the name in the message.

    Raises:
        ConfigurationError: the first value that is none.
    """
    for name, value in values.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (is_number if kind is float else isinstance(value, kind)):
            raise ConfigurationError(f"{where}{name} must be {_KINDS[kind]}, not {shorten(value)}")


class FastStateError(Exception):
    """Base of every exception that the package raises on purpose."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"


class ConfigurationError(FastStateError, ValueError):
    """A setting, a state class or a registration that cannot work, found before any request."""


class MissingDependencyError(ConfigurationError):
    """An optional package is needed and not installed; the message has the ``pip install`` line."""


class NestedTurnError(FastStateError, RuntimeError):
    """Code that holds a turn asked for a turn on a key that is not part of it."""


class NotResolvedError(FastStateError, RuntimeError):
    """Session or identity was used before ``await context.resolve()``."""


class ReadOnlyStateError(FastStateError, AttributeError):
    """A read-only copy of a state was assigned to, or an event was called on it."""


class InvalidStateError(FastStateError, ValueError):
    """A handler left a value in a state that its field, or the wire, refuses."""


class RequestError(FastStateError, HTTPException):
    """A request that is refused with a status; ``detail`` is safe to show to whoever asked.

    Args:
        detail: one sentence for the client, without secrets.
        headers: extra response headers.
        fields: what is wrong with which field or parameter, for forms.
    """

    status: ClassVar[int] = 400
    title: ClassVar[str] = "Bad request"

    def __init__(
        self, detail: str = "", *, headers: Mapping[str, str] | None = None, fields: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(self.status, detail or self.title, dict(headers) if headers else None)
        self.fields: dict[str, str] = dict(fields or {})

    def __str__(self) -> str:
        return str(self.detail)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.detail, self.headers, self.fields)


def _rebuild(
    cls: type[RequestError], detail: str, headers: Mapping[str, str] | None, fields: Mapping[str, str]
) -> RequestError:
    """Make a pickled request error again."""
    return cls(detail, headers=headers, fields=fields)


class BadRequestError(RequestError, ValueError):
    """400: the request cannot be understood."""


class MissingParameterError(BadRequestError):
    """400: the request names no record or component, and the state needs one."""

    title = "Missing parameter"


class AuthenticationError(RequestError, PermissionError):
    """401: nobody is logged in and the state or event needs somebody."""

    status = 401
    title = "Authentication required"


class LoginRedirect(AuthenticationError):
    """303: a page that needs a login, sent on to ``login_url``."""

    status = 303
    title = "Authentication required"


class AuthorizationError(RequestError, PermissionError):
    """403: who is logged in may not do this."""

    status = 403
    title = "Access denied"


class CrossSiteError(AuthorizationError):
    """403: the request was made by a page of another origin."""

    title = "Cross-site request refused"


class StateNotFoundError(RequestError, LookupError):
    """404: the state was never created, and has no default."""

    status = 404
    title = "Not found"


class ConflictError(RequestError, ValueError):
    """409: a table refuses what an event would write, by a unique, foreign key or check constraint."""

    status = 409
    title = "Conflict"


class LeaseLostError(RequestError, RuntimeError):
    """409: the turn ran out before the commit; nothing was changed."""

    status = 409
    title = "The change came too late"


class SlowBodyError(RequestError, TimeoutError):
    """408: the body did not arrive in time."""

    status = 408
    title = "Request too slow"


class BodyTooLargeError(RequestError, ValueError):
    """413: the body, or one file in it, is larger than allowed."""

    status = 413
    title = "Request too large"


class ArgumentError(RequestError, ValueError):
    """422: arguments that an event does not accept; ``fields`` names each one."""

    status = 422
    title = "Invalid input"


class RateLimitedError(RequestError, RuntimeError):
    """429: too many requests; ``Retry-After`` says when to come back."""

    status = 429
    title = "Too many requests"


class OverloadedError(RequestError, RuntimeError):
    """503: refused before anything ran, because too much is waiting or the server is stopping."""

    status = 503
    title = "Service unavailable"


class StoreUnavailableError(RequestError, ConnectionError):
    """503: the store did not answer; nothing was changed."""

    status = 503
    title = "Service unavailable"


class TurnTimeoutError(RequestError, TimeoutError):
    """504: the event ran longer than its ``timeout``; nothing was changed."""

    status = 504
    title = "Timed out"
