"""The reader at the other end of a stream's connection: what it has taken, and whether it is still there.

What is asked of a connection is what uvicorn and Linux can tell; elsewhere nothing is known, and deadlines alone decide.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

UNREAD_BYTES = 64 * 1024
"""What the kernel may hold for a reader; Linux doubles it for its own records."""
LOOKS_PER_DEADLINE = 4
# The beginning of Linux' `struct tcp_info`: eight fields of one byte, then `rto` and what follows up to `last_ack_recv`.
_TCP_INFO = struct.Struct("=8B13I")
_PROBES, _UNACKED, _LAST_ACK_MS = 3, 12, 20
_CLOSED = (OSError, ValueError)  # what asyncio and uvloop say of a connection that is closed already


def _socket_of(transport: Any) -> Any:
    """Return the socket of a TCP connection, None if there is none or it cannot be reached."""
    ask = getattr(transport, "get_extra_info", None)
    sock = None if ask is None else ask("socket")
    return sock if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) else None


def bound_backlog(transport: Any) -> None:
    """Let the kernel keep little for a reader; by itself it takes megabytes before a write waits."""
    sock = _socket_of(transport)
    if sock is not None:
        with suppress(*_CLOSED):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)


def silent_for(transport: Any) -> float:
    """Return for how many seconds a reader has acknowledged nothing, 0 if it has nothing to acknowledge or is unknown.

    A reader that stands still acknowledges; one whose cable was pulled does not. TCP_USER_TIMEOUT would not do: while
    a reader is slow, Linux counts the time since its window was full first, whatever it takes meanwhile.
    """
    sock = _socket_of(transport) if sys.platform == "linux" else None
    if sock is None:
        return 0.0
    try:
        info = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
    except _CLOSED:
        return 0.0
    return info[_LAST_ACK_MS] / 1000 if info[_UNACKED] or info[_PROBES] else 0.0


class _Looks:
    """Puts off a deadline whenever there is less to write than at the look before."""

    def __init__(self, transport: Any, limit: asyncio.Timeout, deadline_s: float) -> None:
        self._held: Callable[[], int] = getattr(transport, "get_write_buffer_size", lambda: 0)
        self._limit, self._deadline_s = limit, deadline_s
        self._loop = asyncio.get_running_loop()
        self._left = 0
        self._next = self._loop.call_soon(self._look)

    def _look(self) -> None:
        before, self._left = self._left, self._held()
        if self._left < before:
            self._limit.reschedule(self._loop.time() + self._deadline_s)
        self._next = self._loop.call_later(self._deadline_s / LOOKS_PER_DEADLINE, self._look)

    def end(self) -> None:
        self._next.cancel()


@asynccontextmanager
async def while_read(transport: Any, deadline_s: float) -> AsyncGenerator[None]:
    """Let a write take its time while the reader takes bytes.

    Raises:
        TimeoutError: it took none for ``deadline_s``, to a quarter of it.
    """
    async with asyncio.timeout(deadline_s) as limit:
        looks = _Looks(transport, limit, deadline_s)
        try:
            yield
        finally:
            looks.end()
