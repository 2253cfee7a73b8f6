"""The floor of fan-out: uvloop's `transport.write` of the same bytes, without ASGI, HTTP parser or any promise.

`python -m benchmarks.bare --port 8000 --core 0`: a GET opens a stream, `POST /event` answers constant bytes, any other
POST writes one frame to every stream, with a turn for the loop every 50.
"""

import asyncio
import time
from typing import cast

import uvloop

from benchmarks.floor import EVENT_BODY, PADDING, SENDS_PER_LOOP_TURN, STREAM_FRAME
from benchmarks.servers import be_server, parse_server_arguments

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
EVENT = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%s"

streams: dict["Connection", asyncio.Transport] = {}


class Connection(asyncio.Protocol):
    """One connection; a request is taken to come in one piece."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Open a stream, answer, or publish."""
        if data.startswith(b"GET"):
            self.transport.write(HEAD + chunk(b": open\n\n"))
            streams[self] = self.transport
        elif data.startswith(b"POST /event"):
            self.transport.write(EVENT % (len(EVENT_BODY), EVENT_BODY))
        else:
            publish(chunk(STREAM_FRAME % (time.monotonic_ns(), PADDING)), list(streams.values()))
            self.transport.write(NO_CONTENT)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the stream."""
        streams.pop(self, None)


def chunk(body: bytes) -> bytes:
    """Return a body as one chunk of HTTP/1.1."""
    return b"%x\r\n%s\r\n" % (len(body), body)


def publish(data: bytes, waiting: list[asyncio.Transport]) -> None:
    """Write to some streams and leave the others to the loop's next turn."""
    for transport in waiting[-SENDS_PER_LOOP_TURN:]:
        transport.write(data)
    del waiting[-SENDS_PER_LOOP_TURN:]
    if waiting:
        asyncio.get_running_loop().call_soon(publish, data, waiting)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    arguments = parse_server_arguments()
    be_server(arguments.core)
    uvloop.run(serve(arguments.port))
