"""Whether a request was made by a page of this site: the gate before every event and stream."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .errors import CrossSiteError


def check_origin(scope: Mapping[str, Any], trusted: Collection[str], public: Collection[str], *, is_read: bool) -> None:
    """Let requests of this site and of programs pass.

    A trusted ``Origin`` passes; else ``Sec-Fetch-Site`` must be ``same-origin``; without it (plain HTTP) ``Origin``
    must be the own one; with neither, a browser did not send it.

    Args:
        scope: of the request.
        trusted: origins of other sites that may call.
        public: the own origins; scheme and host of the request if empty.
        is_read: a GET event, which with neither header must at least come from Datastar.

    Raises:
        CrossSiteError: a page of another origin made it.
    """
    origin, site, host, is_datastar = _headers(scope["headers"])
    if origin is not None and origin in trusted:
        return
    if site is not None:
        if site != "same-origin":
            raise CrossSiteError("Requests from other sites are not accepted")
        return
    if origin is not None:
        own = public or (f"{_http(scope)}://{host}",)
        if origin not in own:
            raise CrossSiteError("Requests from other sites are not accepted")
        return
    if is_read and not is_datastar:
        raise CrossSiteError("This address is for pages, not for links")


def _http(scope: Mapping[str, Any]) -> str:
    return "https" if scope.get("scheme") in ("https", "wss") else "http"


def _headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, str | None, str, bool]:
    """Return Origin, Sec-Fetch-Site, Host and whether Datastar sent the request."""
    origin = site = None
    host, is_datastar = "", False
    for name, value in headers:
        if name == b"origin":
            origin = value.decode("latin-1")
        elif name == b"sec-fetch-site":
            site = value.decode("latin-1")
        elif name == b"host":
            host = value.decode("latin-1")
        elif name == b"datastar-request":
            is_datastar = value == b"true"
    return origin, site, host, is_datastar
