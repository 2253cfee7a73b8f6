"""Whether a request was made by a page of this site: the gate before every event and stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .errors import CrossSiteError


def check_origin(
    scope: Mapping[str, Any],
    headers: Mapping[bytes, bytes],
    trusted: Collection[str],
    public: Collection[str],
    *,
    is_read: bool,
) -> None:
    """Let requests of this site and of programs pass.

    A trusted ``Origin`` passes; else ``Sec-Fetch-Site`` must be ``same-origin``; without it (plain HTTP) ``Origin``
    must be the own one; with neither, a browser did not send it.

    Args:
        scope: of the request.
        headers: of the request, by lower-case name.
        trusted: origins of other sites that may call.
        public: the own origins; scheme and host of the request if empty.
        is_read: a GET event, which with neither header must at least come from Datastar.

    Raises:
        CrossSiteError: a page of another origin made it.
    """
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
    if origin is not None and trusted and origin.decode("latin-1") in trusted:
        return
    if site is not None:
        if site != b"same-origin":
            raise CrossSiteError("Requests from other sites are not accepted")
        return
    if origin is not None:
        own = public or (f"{_http(scope)}://{headers.get(b'host', b'').decode('latin-1')}",)
        if origin.decode("latin-1") not in own:
            raise CrossSiteError("Requests from other sites are not accepted")
        return
    if is_read and headers.get(b"datastar-request") != b"true":
        raise CrossSiteError("This address is for pages, not for links")


def _http(scope: Mapping[str, Any]) -> str:
    return "https" if scope.get("scheme") in ("https", "wss") else "http"
