"""How does an event compare with a click in NiceGUI, which keeps the page on the server and sends over a websocket?

`python -m benchmarks.nicegui [--seconds 3] [--rounds 5] [--quick]` makes an environment for it first. With `--port` and
`--core` it is the server with NiceGUI's counter.

32 pages are open, each with its websocket; each clicks again when it has seen the new number. Frames are neither
masked (the mask is 0) nor compressed, as a browser's would be: that flatters NiceGUI.
"""

import itertools
import json
import re
import struct
import time
from typing import Any

from benchmarks import foreign
from benchmarks.load import Connection, body_of
from benchmarks.rounds import Variant

INSTALLS = (["nicegui==3.18.0"],)
PACKAGES = ("nicegui", "python-socketio", "python-engineio", "websockets", "fastapi", "starlette", "uvicorn", "uvloop")
OTHERS = ("async, session", "inline, session", "Starlette + datastar_py", "FastHTML + datastar_py")
CLIENT_ID = re.compile(rb"'client_id': '([0-9a-f-]+)'")
BUTTON = re.compile(rb'"(\d+)":\{"tag":"q-btn".*?"listener_id":"([0-9a-f-]+)","type":"click"')
GET = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n{more}\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
SOCKET = (
    "/_nicegui_ws/socket.io/?client_id={client}&next_message_id=0&implicit_handshake=true&document_id={client}"
    "&tab_id={client}&EIO=4&transport=websocket"
)


def frame(text: str) -> bytes:
    """Return a client's text frame (RFC 6455, section 5.2) with a mask of 0."""
    data = text.encode()
    return struct.pack("!BBH", 0x81, 0x80 | 126, len(data)) + bytes(4) + data


def first_frame(data: bytes) -> tuple[bytes, int] | None:
    """Return the content of the first of a server's frames and its length with the head; None while it is not whole."""
    if len(data) < 4:
        return None
    length, start = data[1], 2
    if length == 126:
        (length,), start = struct.unpack_from("!H", data, 2), 4
    end = start + length
    return (data[start:end], end) if len(data) >= end else None


class Clicks(Connection):
    """One open page: loads it, connects its websocket, and clicks again when it has seen the new number."""

    count = re.compile(rb"count:(\d+)")
    is_socket = False
    click = b""

    def send(self) -> None:
        """Ask for the page, or click."""
        if self.is_socket:
            self.sent_at = time.perf_counter()
            self.write(self.click)
        else:
            self.get(self.load.target.path)

    def get(self, path: str, more: str = "") -> None:
        """Write a request of this path."""
        self.write(GET.format(path=path, port=self.load.target.port, more=more).encode())

    def write(self, data: bytes) -> None:
        """Write to the server."""
        assert self.transport is not None
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Take what is whole: the page, the head of the websocket's answer, then frames."""
        self.buffer += data
        if not self.click:
            if body_of(self.buffer) is not None:
                self.open_socket()
            return
        if not self.is_socket:
            head, end, self.buffer = self.buffer.partition(b"\r\n\r\n")
            if not end or not head.startswith(b"HTTP/1.1 101"):
                self.load.fail(head)
                return
            self.is_socket = True
        while (found := first_frame(self.buffer)) is not None:
            self.buffer = self.buffer[found[1] :]
            self.take_message(found[0])

    def open_socket(self) -> None:
        """Connect the websocket of the page that has come."""
        client, button = CLIENT_ID.search(self.buffer), BUTTON.search(self.buffer)
        if client is None or button is None:
            self.load.fail(self.buffer)
            return
        self.buffer = b""
        names = {"client_id": client[1].decode(), "listener_id": button[2].decode()}
        what = ["event", {"id": int(button[1]), **names, "args": []}]
        self.click = frame("42" + json.dumps(what, separators=(",", ":")))
        self.get(SOCKET.format(client=client[1].decode()), UPGRADE)

    def take_message(self, message: bytes) -> None:
        """Answer what belongs to Engine.IO and Socket.IO; an update is the answer to the click."""
        if message.startswith(b"0{"):
            self.write(frame("40"))
        elif message.startswith(b"40{"):
            self.send()
        elif message == b"2":
            self.write(frame("3"))
        elif message.startswith(b'42["update"'):
            self.take(message, message, is_right=b"count:" in message)


def counter_app() -> Any:
    """Return FastAPI with NiceGUI's counter."""
    from fastapi import FastAPI
    from nicegui import ui

    def page() -> None:
        numbers = itertools.count(1)
        button = ui.button("+1")
        label = ui.label("count:0")
        button.on_click(lambda: label.set_text(f"count:{next(numbers)}"))

    app = FastAPI()
    ui.page("/")(page)
    ui.run_with(app)
    return app


RIVAL = foreign.Rival(
    "nicegui",
    __doc__,
    counter_app,
    INSTALLS,
    PACKAGES,
    OTHERS,
    Variant("NiceGUI, a click", "benchmarks.nicegui", "/", "session", connection=Clicks),
)

if __name__ == "__main__":
    RIVAL.main()
