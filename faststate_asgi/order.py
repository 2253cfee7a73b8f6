"""Answers that overtake each other: what a page is told so that it shows no older value after a newer one.

An answer brings values itself where no open stream of the page does. Each of its frames says which version it brings and
what the page had taken in when it asked; the first frames of a stream say which versions they bring. ``guard.js`` is
what a page does with that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

HEADER = b"faststate-after"
HEADER_EXPRESSION = "'FastState-After': window.faststate?.after()"
_AFTER = re.compile(r"\d{1,15}")


def number_of(version: str) -> str:
    """Return the number in a version, ``"0"`` of what is not stored."""
    return version.partition("-")[0]


def after_of(header: str | None) -> str | None:
    """Return what the page had taken in when it asked; None if it does not put answers in order."""
    return header if header is not None and _AFTER.fullmatch(header) else None


def numbered(frame: bytes, label: str, version: str, after: str, fragment: str = "") -> bytes:
    """Return a frame of an answer that also tells its place.

    Args:
        frame: the frame.
        label: the state's.
        version: the state's, once the page has this frame.
        after: what the request said in its header.
        fragment: the name of the fragment that the frame brings, empty for signals.
    """
    place = f"{label} {number_of(version)} {after}" + (fragment and f" {fragment}")
    return frame[:-1] + f"data: order {place}\n\n".encode()


def holding(frame: bytes, versions: Mapping[str, str]) -> bytes:
    """Return a first frame of a stream that also tells which versions the first frames bring, by label."""
    held = " ".join(f"{label}={number_of(version)}" for label, version in versions.items())
    return frame[:-1] + f"data: holds {held}\n\n".encode()
