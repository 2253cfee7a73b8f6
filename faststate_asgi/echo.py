"""A field that is being typed in: its own older requests and their echo do not overwrite it.

A setter's action numbers its requests within the page. The server drops one that was overtaken, and tells the page in
its stream which number the values after it include. ``guard.js`` is what the page does with that: it sets values of
such a field aside while newer ones of its own are on their way. The order in which all this travels is in ``docs/wire.md``.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

HEADER = b"faststate-typed"
TAB_HEADER = b"faststate-tab"
REMEMBERED_S = 120.0
_SENT = re.compile(r"([\w.]{1,64})-(\d{1,16}(?:\.\d{1,9})?)(-own)?")
_TAB = re.compile(r"[\w.]{1,64}")
# Without the guard (no `Live` in the page) the page's own clock numbers its requests.
_CLOCK = "performance.timeOrigin + '-' + performance.now()"


class Typed(NamedTuple):
    """One request of a setter.

    Args:
        tag: what the tab is called in streams; the tab's own name is not told to others.
        number: grows with each request of the tab.
        is_own: whether the page's signal of that name holds the value already, and nothing there guards it.
    """

    tag: str
    number: str
    is_own: bool = False


def tag_of(tab: str) -> str:
    """Return what a tab is called in streams that others get, too."""
    return blake2b(tab.encode(), digest_size=8).hexdigest()


def typed_of(header: bytes | None) -> Typed | None:
    """Return what a setter's request says about itself; None if it says nothing that makes sense."""
    match = None if header is None else _SENT.fullmatch(header.decode("latin-1"))
    return None if match is None else Typed(tag_of(match[1]), match[2], match[3] is not None)


def stream_tag(header: str | None) -> str | None:
    """Return the tag of the tab that opens a stream, None if it does not say."""
    return tag_of(header) if header is not None and _TAB.fullmatch(header) else None


def is_overtaken(number: str, newest: bytes) -> bool:
    """Tell whether a request is older than one that has run."""
    return float(number) < float(newest)


def header_expression(path: str | None) -> str:
    """Return the JavaScript of the header that numbers a setter's request.

    Args:
        path: the signal whose value is sent, None for any other value.
    """
    if path is None:
        return f"'FastState-Typed': window.faststate?.order() ?? {_CLOCK}"
    return f"'FastState-Typed': window.faststate?.typed(el, '{path}') ?? {_CLOCK} + '-own'"


def note_frame(path: str, typed: Typed) -> bytes:
    """Return the frame that tells a tab that all that it has been sent before includes this request."""
    note = f"{path} {typed.tag} {typed.number}"
    return f"event: datastar-patch-signals\ndata: signals {{}}\ndata: typed {note}\n\n".encode()


def with_tab(frame: bytes, tag: str | None) -> bytes:
    """Return a frame that also tells the tab its tag."""
    return frame if tag is None else frame[:-1] + f"data: tab {tag}\n\n".encode()


@cache
def _guard_script() -> str:
    """Return ``guard.js`` as one line without comments."""
    lines = (line.strip() for line in Path(__file__).with_name("guard.js").read_text().splitlines())
    return " ".join(line for line in lines if line and not line.startswith("//"))


def guard(paths: list[str]) -> str:
    """Return the JavaScript that guards a page, and these fields of it while they are typed in."""
    return _guard_script() + (f"; for (const p of {paths!r}) window.faststate.bound.add(p)" if paths else "")
