"""An SSE reader written from the specification (WHATWG HTML 9.2), independent of the package's own encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..patches import merge


@dataclass(slots=True)
class Frame:
    """One SSE message: its event name, its data lines, its id and reconnection time."""

    event: str = ""
    lines: list[str] = field(default_factory=list[str])
    id: str | None = None
    retry: int | None = None

    @property
    def data(self) -> dict[str, str]:
        """Datastar's arguments: the first word of each line, and the rest of all lines with that word."""
        result: dict[str, str] = {}
        for line in self.lines:
            name, _, rest = line.partition(" ")
            result[name] = f"{result[name]}\n{rest}" if name in result else rest
        return result

    @property
    def patch(self) -> dict[str, Any] | None:
        """The signals of a ``datastar-patch-signals`` frame, else None."""
        if self.event != "datastar-patch-signals":
            return None
        value: dict[str, Any] = json.loads(self.data["signals"], parse_constant=_not_json)
        return value

    @property
    def html(self) -> str:
        """The markup of a ``datastar-patch-elements`` frame."""
        return self.data.get("elements", "")

    @property
    def selector(self) -> str | None:
        """Its selector, None for the elements' own ids."""
        return self.data.get("selector")

    @property
    def mode(self) -> str:
        """Its mode."""
        return self.data.get("mode", "outer")


def _not_json(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


class FrameReader:
    """Turns bytes into frames as they arrive; only CR, LF and CRLF end a line."""

    def __init__(self) -> None:
        self._rest = b""
        self._frame = Frame()
        self._is_empty = True
        self.comments = 0

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield the frames that ``chunk`` completes."""
        text = self._rest + chunk
        # A CR at the end may be half of a CRLF whose LF has not come yet.
        text, held = (text[:-1], b"\r") if text.endswith(b"\r") else (text, b"")
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + held
        for raw in lines:
            frame = self._line(raw.decode("utf-8"))
            if frame is not None:
                yield frame

    def _line(self, line: str) -> Frame | None:
        if not line:
            done, is_empty = self._frame, self._is_empty
            self._frame, self._is_empty = Frame(), True
            if not done.lines:
                done.event = ""  # no data, no event (WHATWG HTML 9.2.6)
            return None if is_empty else done
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments += 1
            return None
        self._is_empty = False
        if name == "data":
            self._frame.lines.append(value)
        elif name == "event":
            self._frame.event = value
        elif name == "id":
            self._frame.id = value
        elif name == "retry" and value.isdigit():
            self._frame.retry = int(value)
        return None


def parse_frames(body: bytes) -> list[Frame]:
    """Return the frames of a complete body."""
    return list(FrameReader().feed(body))


def apply(signals: dict[str, Any], frame: Frame) -> None:
    """Merge a frame into what a page holds."""
    patch = frame.patch
    if patch is not None:
        merge(signals, patch)
