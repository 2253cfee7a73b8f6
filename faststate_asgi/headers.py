"""The headers of a request by name, and what they say of who sent it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_BROWSER_SCHEMES = frozenset({b"basic", b"digest", b"negotiate", b"ntlm"})
"""What a browser sends by itself, perhaps for a proxy in front of the app that asked for it."""
_BROWSER_HEADERS = (b"cookie", b"sec-fetch-site", b"datastar-request")


def joined_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by name; what was sent twice is joined (RFC 9110 5.3), cookies by a semicolon."""
    headers: dict[bytes, bytes] = {}
    for name, value in raw:
        known = headers.get(name)
        headers[name] = value if known is None else known + (b"; " if name == b"cookie" else b", ") + value
    return headers


def is_of_program(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a logged-in caller proves who it is with each request, and keeps no cookies."""
    scheme = headers.get(b"authorization", b"").partition(b" ")[0].lower()
    if scheme and scheme not in _BROWSER_SCHEMES:
        return True
    is_browser = any(name in headers for name in _BROWSER_HEADERS)
    return not is_browser and b"text/html" not in headers.get(b"accept", b"")
