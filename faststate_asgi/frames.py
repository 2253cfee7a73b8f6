"""The bytes of one SSE frame, and values made safe for Datastar expressions and attributes.

The only encoder of the package: JSON is strict, ASCII, and holds no character that Datastar, HTML or SSE would read
as code. Anything that goes into a frame's own lines is refused if it could begin another line.
"""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

from pydantic_core import to_json

from .errors import InvalidStateError
from .patches import Json

MODES = frozenset({"outer", "inner", "replace", "prepend", "append", "before", "after", "remove"})
OLD_MODES = {"morph": "outer", "delete": "remove"}
SSE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
ANSWER_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
"""Of an answer in one body: nothing between here and the page could hold back a part of it."""
# Pages have to notice silence, and Datastar tells them of events only. One without data is none for others (WHATWG
# HTML 9.2.6).
HEARTBEAT = b": \nevent: datastar-alive\n\n"

# Elements without an end (WHATWG HTML 13.1.2).
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_SIGNALS = b"event: datastar-patch-signals\ndata: signals "
_MISSING_SIGNALS = b"event: datastar-patch-signals\ndata: onlyIfMissing true\ndata: signals "
_CODE = re.compile(r"[<>&'@$`\x7f]")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_FORBIDDEN_IN_LINE = re.compile(r"[\r\n\x00]")
_encode_spaced = json.JSONEncoder(allow_nan=False).encode


def expression(value: Json) -> str:
    r"""Return ``value`` as a literal for a Datastar expression, inert there and in any HTML attribute.

    ``< > & ' @ $`` and the back-tick are written as ``\u00XX``: Datastar rewrites ``@word(`` and ``$name`` even
    inside string literals.

    Raises:
        InvalidStateError: the value is not JSON (NaN, infinity, an unknown type).
    """
    try:
        text = _encode_spaced(value)
    except (ValueError, TypeError) as exc:
        raise InvalidStateError(f"cannot be written into a page: {exc}") from None
    return _CODE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def attribute(value: str) -> str:
    """Return ``value`` escaped for a double-quoted HTML attribute."""
    return html.escape(value, quote=True)


def signals(patch: Json, *, only_if_missing: bool = False) -> bytes:
    """Return the frame that merges ``patch``, which is in wire form, into the page's signals."""
    head = _MISSING_SIGNALS if only_if_missing else _SIGNALS
    return head + to_json(patch, inf_nan_mode="constants") + b"\n\n"


def signals_around(path: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Return what stands before and after the JSON of signals nested at ``path``."""
    return _SIGNALS + b"".join(b"{" + to_json(name) + b":" for name in path), b"}" * len(path) + b"\n\n"


def signals_text(patch: bytes) -> bytes:
    """Return the frame of a patch that is JSON already."""
    return b"event: datastar-patch-signals\ndata: signals " + patch + b"\n\n"


def elements(markup: str, *, selector: str | None = None, mode: str = "outer") -> bytes:
    """Return the frame that patches ``markup`` into the page.

    Args:
        markup: HTML; empty with mode ``remove``.
        selector: a CSS selector, or None for the ids of the root elements.
        mode: one of ``MODES``.

    Raises:
        ValueError: an unknown mode, or a line break in the selector.
    """
    lines = ["event: datastar-patch-elements"]
    if selector is not None:
        lines.append(f"data: selector {one_line(selector, 'selector')}")
    if mode not in MODES:
        raise ValueError(f"unknown patch mode {mode!r}; use one of {', '.join(sorted(MODES))}")
    if mode != "outer":
        lines.append(f"data: mode {mode}")
    if markup:
        # Only CR, LF and CRLF end a line of SSE (WHATWG HTML 9.2.5); str.splitlines knows many more.
        lines += [f"data: elements {line}" for line in _LINE_BREAK.split(markup.replace("\x00", "�"))]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


def script(code: str) -> bytes:
    """Return the frame that runs ``code`` once, also under a policy without inline scripts."""
    wrapped = f'<div data-init="{attribute("el.remove();" + code)}"></div>'
    return elements(wrapped, selector="body", mode="append")


def redirect(url: str) -> bytes:
    """Return the frame that sends the page to ``url``, which the caller has checked."""
    return script(f"window.location.assign({expression(url)})")


def dispatch(name: str, detail: Json) -> bytes:
    """Return the frame that dispatches a DOM ``CustomEvent`` on the document."""
    arguments = f"{expression(name)},{{detail:{expression(detail)},bubbles:true}}"
    return script(f"document.dispatchEvent(new CustomEvent({arguments}))")


def one_line(value: str, what: str) -> str:
    """Return ``value`` if it can stand in one line of a frame or a header, else raise ``ValueError``."""
    if _FORBIDDEN_IN_LINE.search(value):
        raise ValueError(f"{what} must not contain line breaks or NUL")
    return value


class _FirstTag(HTMLParser):
    """Finds the attributes of the first element of some markup."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.attributes is None:
            self.attributes = dict(attrs)


def root_attributes(markup: str) -> dict[str, str | None] | None:
    """Return the attributes of the first element in ``markup``, or None if it has no element."""
    parser = _FirstTag()
    end = markup.find(">")
    while end != -1:
        parser.feed(markup[: end + 1])
        if parser.attributes is not None:
            break
        parser.reset()
        end = markup.find(">", end + 1)
    return parser.attributes


class _Roots(HTMLParser):
    """Counts the elements that stand beside each other at the top of some markup."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._root, self._depth = "", 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._depth == 0:
            self.count += 1
            self._root, self._depth = tag, 0 if tag in _VOID else 1
        elif tag == self._root:
            self._depth += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == self._root and self._depth:
            self._depth -= 1


def root_count(markup: str) -> int:
    """Return how many elements stand beside each other at the top of ``markup``, which is read to its end."""
    parser = _Roots()
    parser.feed(markup)
    parser.close()
    return parser.count
