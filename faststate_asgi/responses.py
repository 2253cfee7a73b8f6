"""The answers that the package itself gives: problem+json, ``$_faststate.error``, and small ASGI responses."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException

from . import frames
from .errors import FastStateError, RequestError, shorten
from .patches import Json

logger = logging.getLogger("faststate.events")
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON_HEADERS: Headers = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
PROBLEM_HEADERS: Headers = ((b"content-type", b"application/problem+json"), *JSON_HEADERS[1:])
WITHOUT_BODY = frozenset({204, 304})
"""Answers that end with their head (RFC 9110, section 6.4.1): a body would be read as the beginning of the next one."""
_HEADER_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NOT_IN_A_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def describe(exc: BaseException, where: str, *, is_debug: bool) -> tuple[dict[str, Json], Mapping[str, str]]:
    """Return what a client may know of an exception, and extra headers; unexpected ones are logged.

    A plain ``HTTPException`` of Starlette or FastAPI was raised on purpose as well. One that no server could send is
    unexpected.

    Args:
        exc: any exception.
        where: the event or address, for the log and the ``event`` member.
        is_debug: whether the text of unexpected exceptions may be shown.
    """
    if isinstance(exc, HTTPException):
        try:
            check_sendable(exc.status_code, header_items(exc.headers or {}))
        except (ValueError, TypeError, AttributeError) as unsendable:
            unsendable.__cause__ = exc
            exc = unsendable
    if isinstance(exc, RequestError):
        status = 401 if exc.status_code == 303 else exc.status_code
        problem = {
            "status": status,
            "title": exc.title,
            "detail": str(exc.detail),
            "event": where,
            "fields": exc.fields,
        }
        return problem, exc.headers or {}
    if isinstance(exc, HTTPException):
        is_known = exc.status_code in HTTPStatus.__members__.values()
        title = HTTPStatus(exc.status_code).phrase if is_known else "Error"
        detail = str(exc.detail)
        return {
            "status": exc.status_code,
            "title": title,
            "detail": detail,
            "event": where,
            "fields": {},
        }, exc.headers or {}
    logger.error("event %s failed", where, exc_info=exc)
    title = exc.title if isinstance(exc, FastStateError) else "Internal error"
    detail = f"{type(exc).__name__}: {exc}" if is_debug else "Something went wrong on the server"
    return {"status": 500, "title": title, "detail": detail, "event": where, "fields": {}}, {}


def error_frame(problem: dict[str, Json]) -> bytes:
    """Return the frame that sets ``$_faststate.error``; keys of an older error are gone."""
    blank = frames.signals({"_faststate": {"error": ""}})
    return blank + frames.signals({"_faststate": {"error": problem}})


def problem_body(problem: dict[str, Json]) -> bytes:
    """Return the body of RFC 9457 for clients that are not Datastar."""
    document = {"type": "about:blank", **{name: value for name, value in problem.items() if value not in ("", {})}}
    return json.dumps(document).encode()


def header_items(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def check_sendable(status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse what a server would break off the connection for instead of sending it.

    Args:
        status: of an answer that a handler makes.
        headers: its headers.

    Raises:
        ValueError: says what is wrong, and the way out.
    """
    if not 200 <= status <= 599:
        raise ValueError(f"{status} is no status of an answer; use one from 200 to 599")
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or _NOT_IN_A_VALUE.search(value):
            raise ValueError(
                f"the header {shorten(name.decode('latin-1'))} has a line break, a control character or a space where none "
                "may be; take it out before you set the header"
            )


def location(url: str) -> bytes:
    """Return a URL as a header value; the caller has checked where it leads."""
    return quote(url, safe=":/%#?=@[]!$&'()*+,;").encode("latin-1")


async def respond(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> None:
    """Send one complete response."""
    items = list(headers)
    if status in WITHOUT_BODY:
        body = b""
    else:
        items.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": items})
    await send({"type": "http.response.body", "body": body})
