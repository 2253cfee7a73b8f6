"""Reads thousands of SSE streams in one process for a few microseconds each.

Plain sockets and epoll: no task, object or parser per stream. What is counted is one byte, `MARK`, that each
published frame holds exactly once and nothing else in a stream holds: a frame cut in two is counted once.
"""

import contextlib
import os
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.load import body_of

MARK = 0x7E  # "~"
EVENTS_AT_ONCE = 64
STAMP = re.compile(rb"~(\d{20})")
OPEN_AT_ONCE = 100
OPEN_DEADLINE_S = 20.0
ROUND_DEADLINE_S = 10.0
BUFFER_BYTES = 16384


class StreamsLost(RuntimeError):
    """A stream ended or refused to open while it was being read."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """What one publication came to: how many streams got it, how late the last one, how many bytes in all."""

    delivered: int
    last_s: float
    bytes_read: int


class Streams:
    """N open streams of one server; opened, read and closed by the one who made it."""

    def __init__(self, port: int, path: str) -> None:
        """Prepare to open streams of this path."""
        self.port = port
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Accept: text/event-stream, text/html, application/json\r\n"
            "Datastar-Request: true\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n\r\n"
        ).encode()
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.marks: dict[int, int] = {}
        self.buffer = bytearray(BUFFER_BYTES)
        self.views = [memoryview(self.buffer)]

    def open(self, number: int) -> None:
        """Open this many streams and wait until each has sent its first bytes.

        Raises:
            StreamsLost: one was refused or did not answer in time.
        """
        while len(self.sockets) < number:
            new = [self._connect() for _ in range(min(OPEN_AT_ONCE, number - len(self.sockets)))]
            for one in new:
                self._await_first_bytes(one)
        self.settle()

    def _connect(self) -> socket.socket:
        """Connect one stream and send its request."""
        one = socket.create_connection(("127.0.0.1", self.port), timeout=OPEN_DEADLINE_S)
        one.sendall(self.request)
        self.sockets[one.fileno()] = one
        return one

    def _await_first_bytes(self, one: socket.socket) -> None:
        """Read the head and what comes with it, and hand the socket to epoll."""
        head = one.recv(BUFFER_BYTES)
        if not head.startswith(b"HTTP/1.1 200"):
            raise StreamsLost(f"a stream was refused: {head[:300]!r}")
        one.setblocking(False)
        self.marks[one.fileno()] = 0
        self.epoll.register(one.fileno(), select.EPOLLIN)

    def settle(self, quiet_s: float = 0.3) -> None:
        """Read until nothing has come for a while, and forget what was counted."""
        while self.epoll.poll(quiet_s):
            self._read_ready(0.0)
        self.forget_counts()

    def _read_ready(self, timeout_s: float, at_once: int = -1) -> tuple[int, int]:
        """Read the streams that have something, all or so many; return marks and bytes."""
        delivered = read = 0
        buffer, views, marks, readv = self.buffer, self.views, self.marks, os.readv
        for descriptor, _ in self.epoll.poll(timeout_s, at_once):
            length = readv(descriptor, views)
            if length == 0:
                raise StreamsLost("the server closed a stream")
            found = buffer.count(MARK, 0, length)
            marks[descriptor] += found
            delivered += found
            read += length
        return delivered, read

    def read_broadcast(self, sent_at: float) -> Broadcast:
        """Read until every stream has one more mark, or the deadline passes.

        Args:
            sent_at: the monotonic time of the request to publish, used where a frame does not carry its own.
        """
        delivered = read = 0
        deadline = sent_at + ROUND_DEADLINE_S
        while delivered < len(self.marks) and time.monotonic() < deadline:
            new, length = self._read_ready(0.5)
            delivered, read = delivered + new, read + length
        return Broadcast(delivered, time.monotonic() - self._commit_time(sent_at), read)

    def _commit_time(self, sent_at: float) -> float:
        """Return the server's time in the frame that was read last: one clock serves the whole machine."""
        stamp = STAMP.search(self.buffer)
        return int(stamp[1]) / 1e9 if stamp else sent_at

    def read_beside(self, pacer: "Pacer", seconds: float, publish: Callable[[], object], every_s: float) -> None:
        """Publish at a steady pace and read everything, while a pacer sends other events and measures them."""
        began = time.monotonic()
        next_at = began
        while (now := time.monotonic()) < began + seconds:
            if now >= next_at:
                publish()
                next_at += every_s
            pacer.turn()
            self._read_ready(0.0003, EVENTS_AT_ONCE)

    def uneven(self, broadcasts: int) -> int:
        """Return how many streams did not get each of this many broadcasts exactly once."""
        return sum(found != broadcasts for found in self.marks.values())

    def forget_counts(self) -> None:
        """Begin to count anew."""
        self.marks = dict.fromkeys(self.marks, 0)

    def close(self) -> None:
        """Close every stream."""
        for one in self.sockets.values():
            with contextlib.suppress(OSError):
                one.close()
        self.epoll.close()


class Publisher:
    """One kept-alive connection that posts the event which publishes."""

    def __init__(self, port: int, path: str, live: str = "Board", body: bytes = b"{}") -> None:
        """Connect; `live` names the states that the asking page watches."""
        self.answer = b""
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=ROUND_DEADLINE_S)
        self.request = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
            f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n"
            f"Datastar-Request: true\r\nFastState-Live: {live}\r\n\r\n"
        ).encode() + body

    def publish(self) -> float:
        """Send the event and return the monotonic time of it, without waiting for the answer."""
        sent_at = time.monotonic()
        self.connection.sendall(self.request)
        return sent_at

    def read_answer(self) -> None:
        """Wait for the whole answer."""
        while not self._take(self.connection.recv(BUFFER_BYTES)):
            pass

    def is_answered(self) -> bool:
        """Read what is there of the answer without waiting, and tell whether it is whole."""
        try:
            return self._take(self.connection.recv(BUFFER_BYTES, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def _take(self, part: bytes) -> bool:
        """Add a part of the answer and tell whether it is whole.

        Raises:
            StreamsLost: it is a refusal, or the connection was closed.
        """
        self.answer += part
        if not part or not self.answer.startswith(b"HTTP/1.1 20"):
            raise StreamsLost(f"an event was refused: {self.answer[:300]!r}")
        if body_of(self.answer) is None:
            return False
        self.answer = b""
        return True

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class Pacer:
    """Sends events at a steady rate, whether or not the last were answered, over a few connections.

    A latency counts from when the event was due, so that a server which stalls is not asked less.
    """

    def __init__(self, port: int, path: str, per_s: float, connections: int = 8) -> None:
        """Connect and begin."""
        self.idle = [Publisher(port, path, "undefined") for _ in range(connections)]
        self.busy: deque[tuple[float, Publisher]] = deque()
        self.gap_s = 1 / per_s
        self.due_at = time.monotonic() + self.gap_s
        self.latencies_s: list[float] = []

    def turn(self) -> None:
        """Take the answers that are there and send what is due."""
        for _ in range(len(self.busy)):
            due_at, publisher = self.busy.popleft()
            if publisher.is_answered():
                self.latencies_s.append(time.monotonic() - due_at)
                self.idle.append(publisher)
            else:
                self.busy.append((due_at, publisher))
        while self.idle and time.monotonic() >= self.due_at:
            publisher = self.idle.pop()
            publisher.publish()
            self.busy.append((self.due_at, publisher))
            self.due_at += self.gap_s

    def close(self) -> None:
        """Close every connection."""
        for publisher in [*self.idle, *[publisher for _, publisher in self.busy]]:
            publisher.close()
