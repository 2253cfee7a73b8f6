"""Where a visitor who has to log in is sent: ``login_url`` with a ``next`` that leads back, on this site only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

_PATH = "/:@!$&'()*+,;=~"
"""What a path may hold besides letters, digits and percent signs (RFC 3986 3.3)."""


def login_target(login_url: str, scope: Mapping[str, Any]) -> str:
    """Return the login page with a way back to the page that a request asked for."""
    query: str = scope.get("query_string", b"").decode("latin-1")
    path: str = scope.get("path", "/")
    return with_next(below_root(login_url, scope), quote(path.lstrip("/\\"), safe=_PATH), query)


def login_target_from(login_url: str, scope: Mapping[str, Any], host: str | None, referer: str | None) -> str:
    """Return the login page with a way back to the page that an event came from, without one if that was another site's.

    Args:
        login_url: the setting.
        scope: of the event's request.
        host: its header of that name.
        referer: likewise.
    """
    url = below_root(login_url, scope)
    parts = urlsplit(referer or "")
    if parts.netloc != host or not parts.path.startswith("/"):
        return url
    return with_next(url, quote(parts.path, safe=f"{_PATH}%"), parts.query)


def below_root(login_url: str, scope: Mapping[str, Any]) -> str:
    """Return a path of this site below ``root_path``, and any other address as it is."""
    root_path: str = scope.get("root_path", "").rstrip("/")
    return root_path + login_url if login_url.startswith("/") else login_url


def with_next(login_url: str, path: str, query: str) -> str:
    """Return a login address with a ``next`` that no browser reads as another site.

    Args:
        login_url: the login page.
        path: of the page to come back to, percent-encoded, so that no control character is in it.
        query: of that page, as it was sent.
    """
    target = "/" + path.lstrip("/") + (f"?{query}" if query else "")
    return f"{login_url}{'&' if '?' in login_url else '?'}next={quote(target, safe='/')}"
