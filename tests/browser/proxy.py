"""A small HTTP proxy that a test can order to hold, reset or cut what passes through it.

It runs on an event loop in a thread of its own, one request per connection. It knows just enough HTTP/1.1 to tell a
POST from a stream.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
_HEAD_END = b"\r\n\r\n"
_DEADLINE_S = 20.0


@dataclass(slots=True)
class Held:
    """One answer that the server has given and the browser has not got yet."""

    request: bytes
    answer: bytes
    release: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Stands between a browser and `upstream_port`; whoever made it closes it.

    Attributes:
        port: where the browser finds it.
        requests: method and path of every request so far.
    """

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.requests: list[str] = []
        self._to_reset = 0
        self._is_holding = False
        self._holds_streams = False
        self._holds_parts = False
        self._parts_held = 0
        self._held: list[Held] = []
        self._streams: set[asyncio.StreamWriter] = set()
        self._cut_where: str | None = None
        self._cut_so_far = 0
        self._frozen: set[asyncio.StreamWriter] = set()
        self._instead: bytes | None = None
        self._delays = (0.0, 0.0, 0.0)
        self._random = random.Random(0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """The address that stands for the server's."""
        return f"http://127.0.0.1:{self.port}"

    # -- orders ------------------------------------------------------------------------------------------------------

    def reset_next_posts(self, count: int) -> None:
        """Resets the connections of the next `count` POSTs, after the server has answered each."""
        self._call(self._order(to_reset=count))

    def hold_answers(self, is_holding: bool = True) -> None:
        """Keeps the answers to POSTs from now on until they are released."""
        self._call(self._order(is_holding=is_holding))

    def hold_streams(self, is_holding: bool = True) -> None:
        """Lets no request for a stream reach the server until further notice."""
        self._call(self._order(holds_streams=is_holding))

    def hold_parts(self, is_holding: bool = True) -> None:
        """Keeps what the server sends on streams from the browsers until further notice."""
        self._call(self._order(holds_parts=is_holding))

    def wait_part_held(self) -> None:
        """Returns once something that the server sent on a stream is held."""
        self._call(self._wait(lambda: self._parts_held > 0))

    def delay(self, requests_s: float, answers_s: float, streams_s: float, seed: int = 0) -> None:
        """Delays each POST, each answer to one, and each part of a stream by up to so long, from now on, at random."""
        self._random.seed(seed)
        self._delays = (requests_s, answers_s, streams_s)

    def cut_next_post(self, where: str) -> None:
        """Cuts the connection of the next POST: "before" the server gets it, "inside" its answer, or "after" that."""
        self._call(self._order_cut(where))

    def wait_cut(self, count: int) -> None:
        """Returns once so many POSTs have been cut."""
        self._call(self._wait(lambda: self._cut_so_far >= count))

    def freeze_streams(self) -> None:
        """Lets nothing more through on the streams that are open, and ends none: a cable that was pulled."""
        self._call(self._freeze())

    def answer_streams(self, answer: bytes | None) -> None:
        """Gives this whole answer to each request for a stream from now on, instead of the server's; None ends that."""
        self._instead = answer

    def end_streams(self) -> None:
        """Ends each open stream without a word, as a proxy does that is restarted."""
        self._call(self._end())

    def wait_held(self, count: int) -> None:
        """Returns once `count` answers are held."""
        self._call(self._wait(lambda: len(self._held) >= count))

    def release(self, index: int) -> None:
        """Lets the held answer at `index` go on to the browser."""
        self._call(self._release(index))

    def cut_streams(self) -> None:
        """Resets every connection that carries a stream."""
        self._call(self._cut())

    def close(self) -> None:
        """Ends all connections and the thread."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_S)
        self._loop.close()

    def posts(self) -> list[str]:
        """Returns the paths of all POSTs so far."""
        return [request.removeprefix("POST ") for request in self.requests if request.startswith("POST ")]

    # -- on the loop -------------------------------------------------------------------------------------------------

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_DEADLINE_S)

    async def _order(
        self,
        *,
        to_reset: int | None = None,
        is_holding: bool | None = None,
        holds_streams: bool | None = None,
        holds_parts: bool | None = None,
    ) -> None:
        async with self._changed:
            self._to_reset = self._to_reset if to_reset is None else to_reset
            self._is_holding = self._is_holding if is_holding is None else is_holding
            self._holds_streams = self._holds_streams if holds_streams is None else holds_streams
            self._holds_parts = self._holds_parts if holds_parts is None else holds_parts
            self._changed.notify_all()

    async def _order_cut(self, where: str) -> None:
        self._cut_where = where

    async def _has_cut(self, where: str, writer: asyncio.StreamWriter) -> bool:
        """Cut the browser's connection if that was ordered for this place."""
        if self._cut_where != where:
            return False
        async with self._changed:
            self._cut_where = None
            self._cut_so_far += 1
            self._changed.notify_all()
        _reset(writer)
        return True

    async def _wait(self, is_true: Any) -> None:
        async with asyncio.timeout(_DEADLINE_S), self._changed:
            await self._changed.wait_for(is_true)

    async def _release(self, index: int) -> None:
        self._held[index].release.set()

    async def _cut(self) -> None:
        for writer in self._streams:
            _reset(writer)
        self._streams.clear()

    async def _freeze(self) -> None:
        self._frozen |= self._streams
        self._streams.clear()

    async def _end(self) -> None:
        for writer in self._streams:
            writer.write(b"0\r\n\r\n")
            writer.close()
        self._streams.clear()

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs connection callbacks as tasks"
        self._tasks.add(task)
        try:
            await self._one_request(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side may leave at any time, and close() cancels
        finally:
            self._tasks.discard(task)
            self._streams.discard(writer)
            self._frozen.discard(writer)
            writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_HEAD_END)
        body = await reader.readexactly(_content_length(head))
        method, path = head.split(b" ", 2)[:2]
        self.requests.append(f"{method.decode()} {path.decode()}")
        is_stream = b"/faststate/sse" in path
        if is_stream and self._holds_streams:
            await self._wait(lambda: not self._holds_streams)
        if is_stream and self._instead is not None:
            writer.write(self._instead)
            await writer.drain()
            return
        if method == b"POST":
            await self._pause(0)
            if await self._has_cut("before", writer):
                return
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        try:
            upstream.write(_closing(head) + body)
            if method == b"POST":
                await self._answer_post(head, await upstream_reader.read(), writer)
            else:
                await self._pass_on(upstream_reader, reader, writer, is_stream)
        finally:
            upstream.close()

    async def _pause(self, which: int) -> None:
        """Let some time pass on the wire."""
        if self._delays[which]:
            await asyncio.sleep(self._random.uniform(0, self._delays[which]))

    async def _keep_part(self) -> None:
        """Wait until parts of streams may pass."""
        if self._holds_parts:
            async with self._changed:
                self._parts_held += 1
                self._changed.notify_all()
            await self._wait(lambda: not self._holds_parts)
            self._parts_held -= 1

    async def _answer_post(self, head: bytes, answer: bytes, writer: asyncio.StreamWriter) -> None:
        async with self._changed:
            is_reset, self._to_reset = self._to_reset > 0, max(0, self._to_reset - 1)
            held = Held(head, answer) if self._is_holding else None
            if held is not None:
                self._held.append(held)
            self._changed.notify_all()
        if is_reset:
            _reset(writer)
            return
        if held is not None:
            await held.release.wait()
        await self._pause(1)
        if self._cut_where == "inside":
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            await asyncio.sleep(0.01)
        if await self._has_cut("inside", writer):
            return
        writer.write(answer)
        await writer.drain()
        await self._has_cut("after", writer)

    async def _pass_on(
        self, source: asyncio.StreamReader, browser: asyncio.StreamReader, writer: asyncio.StreamWriter, is_stream: bool
    ) -> None:
        """Carry an answer to the browser as it comes, until one of both leaves."""
        if is_stream:
            self._streams.add(writer)
        gone = asyncio.ensure_future(browser.read())
        try:
            while True:
                chunk = asyncio.ensure_future(source.read(65536))
                await asyncio.wait({chunk, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not chunk.done():
                    chunk.cancel()
                    return
                if not chunk.result():
                    return
                if is_stream:
                    await self._keep_part()
                    await self._pause(2)
                if writer in self._frozen:
                    continue
                writer.write(chunk.result())
                await writer.drain()
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)


def _content_length(head: bytes) -> int:
    """Returns how long the body of a request is."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _closing(head: bytes) -> bytes:
    """Returns a request's head that asks the server to close the connection after its answer."""
    lines = [line for line in head[: -len(_HEAD_END)].split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"connection: close"]) + _HEAD_END


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST, as a broken network would."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
