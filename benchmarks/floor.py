"""The floor: what uvicorn can do at all, as raw ASGI callables that do none of the package's work.

`events` is the denominator of every ratio of events; that of fan-out is `benchmarks.bare`, below ASGI.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

SENDS_PER_LOOP_TURN = 50
EVENT_BODY = b'event: datastar-patch-signals\ndata: signals {"count":1}\n\n'
EVENT_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"content-length", str(len(EVENT_BODY)).encode()),
]
STREAM_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
# As long as the frame that the package sends for the same change, its id included.
STREAM_FRAME = b'event: datastar-patch-signals\nid: 0123456789abcdef\ndata: signals {"text":"~%020d %s"}\n\n'
PADDING = b"x" * 40

COUNTING_ROW = 500

streams: dict[int, "Send"] = {}


def thousand_rows() -> list[dict[str, Any]]:
    """Return the large part of a state: 1 000 rows, one of which counts."""
    rows: list[dict[str, Any]] = [
        {"id": number, "name": f"product {number}", "price": number / 4, "stock": 10} for number in range(1_000)
    ]
    rows[COUNTING_ROW]["count"] = 0
    return rows


async def events(scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Read the body and answer constant bytes: the floor of one event."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    await read_body(receive)
    await send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
    await send({"type": "http.response.body", "body": EVENT_BODY})


async def fanout(scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Hold a stream open for each GET; a POST sends the same bytes to each: the least that ASGI costs."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    if scope["method"] == "GET":
        await hold_stream(receive, send)
        return
    if scope["path"] == "/event":
        await events(scope, receive, send)
        return
    await read_body(receive)
    await publish(STREAM_FRAME % (time.monotonic_ns(), PADDING))
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def live(receive: "Receive", send: "Send") -> None:
    """Follow the lifespan protocol and do nothing in it."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def read_body(receive: "Receive") -> None:
    """Read a request's body to its end."""
    while (await receive()).get("more_body", False):
        pass


async def hold_stream(receive: "Receive", send: "Send") -> None:
    """Keep one stream among those that are published to, until its client leaves."""
    await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
    await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
    streams[id(send)] = send
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        del streams[id(send)]


async def publish(frame: bytes) -> None:
    """Step each stream's `send` once without a task, and give the loop a turn every 50."""
    message = {"type": "http.response.body", "body": frame, "more_body": True}
    for number, send in enumerate(list(streams.values()), start=1):
        step(send(message))  # type: ignore[arg-type]
        if number % SENDS_PER_LOOP_TURN == 0:
            await asyncio.sleep(0)


def step(sending: Coroutine[object, None, None]) -> None:
    """Run one `send` as far as it goes without waiting; one that would wait is given up, and missed."""
    try:
        sending.send(None)
    except StopIteration:
        return
    sending.close()
