"""The package's own work without sockets or a server: raw ASGI calls into the middleware, in one process.

`python -m benchmarks.inprocess [operation ...]` prints processor microseconds per operation within seconds;
`--profile` prints the Python functions in which they are spent. `benchmarks.instructions` counts the same operations
under valgrind. The figures leave out what uvicorn and the kernel cost: compare them with themselves only.
"""

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from benchmarks import apps

AT_ONCE = 16
STREAMS = 200
EVENTS = "/faststate/events"
Operation = Callable[[int], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# What a browser on a page of the same site sends with a Datastar action.
BROWSER: Headers = [
    (b"host", b"127.0.0.1:8000"),
    (b"connection", b"keep-alive"),
    (b"content-length", b"12"),
    (b"sec-ch-ua", b'"Chromium";v="140", "Not=A?Brand";v="24"'),
    (b"sec-ch-ua-mobile", b"?0"),
    (b"sec-ch-ua-platform", b'"Linux"'),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0"),
    (b"content-type", b"application/json"),
    (b"datastar-request", b"true"),
    (b"faststate-live", b"undefined"),
    (b"accept", b"text/event-stream, text/html, application/json"),
    (b"origin", b"http://127.0.0.1:8000"),
    (b"sec-fetch-site", b"same-origin"),
    (b"sec-fetch-mode", b"cors"),
    (b"sec-fetch-dest", b"empty"),
    (b"referer", b"http://127.0.0.1:8000/"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en-GB,en;q=0.9"),
]
NAVIGATION: Headers = [
    *[item for item in BROWSER if item[0] in (b"host", b"user-agent", b"accept-encoding", b"accept-language")],
    (b"accept", b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
    (b"sec-fetch-site", b"none"),
    (b"sec-fetch-mode", b"navigate"),
    (b"sec-fetch-dest", b"document"),
]


class Exchange:
    """One request and its response, as a server would carry them."""

    __slots__ = ("body", "cookie", "is_read", "sent", "status")

    def __init__(self, body: bytes) -> None:
        """Hold the request's body."""
        self.body, self.is_read = body, False
        self.status, self.sent, self.cookie = 0, b"", b""

    async def receive(self) -> dict[str, Any]:
        """Give the whole body at once, then wait for ever: the client stays."""
        if self.is_read:
            await asyncio.Event().wait()
        self.is_read = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        """Take a part of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message["headers"]:
                if name == b"set-cookie":
                    self.cookie = value.partition(b";")[0]
        else:
            self.sent += message["body"]


class Audience:
    """The far ends of all streams: take what they are sent at once, and count it.

    Like uvicorn's requests it has a transport, by which `send` is known to be the server's own.
    """

    def __init__(self) -> None:
        """Expect nothing yet."""
        self.transport = asyncio.Transport()
        self.left = 0
        self.all_there = asyncio.Event()

    def expect(self, messages: int) -> None:
        """Begin to wait for this many messages."""
        self.left = messages
        self.all_there.clear()

    async def receive(self) -> dict[str, Any]:
        """Wait for ever: nobody leaves."""
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Take one message."""
        self.left -= 1
        if self.left == 0:
            self.all_there.set()


def scope_of(method: str, path: str, query: bytes, headers: Headers) -> dict[str, Any]:
    """Return what uvicorn hands over for one request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 40000),
        "scheme": "http",
        "root_path": "",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": headers,
        "state": {},
    }


async def exchange(method: str, path: str, headers: Headers, body: bytes = b"", app: Any = apps.app) -> Exchange:
    """Run one request to its end in the calling task."""
    made = Exchange(body)
    await app(scope_of(method, path, b"", headers), made.receive, made.send)
    return made


async def cookies(number: int, app: Any = apps.app) -> list[bytes]:
    """Return the cookies of new sessions."""
    path, body = f"{EVENTS}/SessionCounter/increment_inline", b'{"amount":1}'
    answers = [await exchange("POST", path, BROWSER, body, app) for _ in range(number)]
    assert all(answer.status == 200 and answer.cookie for answer in answers), "no session was made"
    return [answer.cookie for answer in answers]


async def in_batches(number: int, one: Callable[[int], Awaitable[None]]) -> None:
    """Run this many operations, `AT_ONCE` at a time, each in a task of its own as a server's requests are."""
    loop = asyncio.get_running_loop()

    async def run(index: int) -> None:
        await one(index)

    for start in range(0, number, AT_ONCE):
        indexes = range(start, min(start + AT_ONCE, number))
        await asyncio.gather(*[loop.create_task(run(index)) for index in indexes])


async def event_operation(path: str, app: Any = apps.app) -> Operation:
    """Return what runs events of one path, each of `AT_ONCE` sessions in turn, with fresh idempotency keys."""
    sessions = [[*BROWSER, (b"cookie", cookie)] for cookie in await cookies(AT_ONCE, app)]
    used = 0

    async def one(index: int) -> None:
        headers = [*sessions[index % AT_ONCE], (b"idempotency-key", b"0123456789-%010d" % (used + index))]
        answer = await exchange("POST", path, headers, b'{"amount":1}', app)
        assert answer.status == 200, answer.sent
        assert b'"count":' in answer.sent, answer.sent

    async def many(number: int) -> None:
        nonlocal used
        await in_batches(number, one)
        used += number

    return many


async def page_operation() -> Operation:
    """Return what opens pages that have one session state injected and seeded."""
    sessions = [[*NAVIGATION, (b"cookie", cookie)] for cookie in await cookies(AT_ONCE)]

    async def one(index: int) -> None:
        answer = await exchange("GET", "/page", sessions[index % AT_ONCE])
        assert answer.status == 200, answer.sent
        assert b"data-signals" in answer.sent, answer.sent

    return lambda number: in_batches(number, one)


async def broadcast_operation(*, is_wrapped: bool = False) -> Operation:
    """Return what delivers changes of one global state to `STREAMS` open streams; counts deliveries.

    Args:
        is_wrapped: whether a middleware stands between the server and the package, as in most frameworks.
    """

    async def wrapped(message: dict[str, Any]) -> None:
        await audience.send(message)

    audience, path = Audience(), f"{EVENTS}/Board/publish"
    send = wrapped if is_wrapped else audience.send
    headers = [*BROWSER, (b"cookie", (await cookies(1))[0])]
    audience.expect(2 * STREAMS)
    streams = [
        asyncio.create_task(
            apps.app(scope_of("GET", "/faststate/sse", b"states=Board", BROWSER), audience.receive, send)
        )
        for _ in range(STREAMS)
    ]
    await audience.all_there.wait()

    async def many(number: int) -> None:
        assert not any(stream.done() for stream in streams), "a stream was refused"
        for _ in range(max(1, number // STREAMS)):
            audience.expect(STREAMS)
            answer = await exchange("POST", path, headers, b"{}")
            assert answer.status in (200, 204), answer.sent
            await audience.all_there.wait()
        assert audience.left == 0, "a stream got something twice"

    return many


# Operation, and how many make one part under valgrind.
OPERATIONS: dict[str, tuple[Callable[[], Awaitable[Operation]], int]] = {
    "event, async": (lambda: event_operation(f"{EVENTS}/SessionCounter/increment_async"), 320),
    "event, inline": (lambda: event_operation(f"{EVENTS}/SessionCounter/increment_inline"), 320),
    "event, thread": (lambda: event_operation(f"{EVENTS}/SessionCounter/increment_thread"), 320),
    "event, inline, one key": (lambda: event_operation(f"{EVENTS}/GlobalCounter/increment_inline"), 320),
    "event beside 1 000 rows": (lambda: event_operation(f"{EVENTS}/Table/increment_inline"), 16),
    "event inside 1 000 rows": (lambda: event_operation(f"{EVENTS}/Table/increment_row"), 16),
    "page": (page_operation, 320),
    "delivery": (broadcast_operation, 20 * STREAMS),
    "delivery, wrapped send": (lambda: broadcast_operation(is_wrapped=True), 20 * STREAMS),
}


def mark() -> None:
    """Call a C function that nothing else calls, at which valgrind begins a new part."""
    os.getpriority(os.PRIO_PROCESS, 0)


async def run_marked(names: list[str]) -> None:
    """Run each operation N times to warm up, then N and 2 N times, with a mark before and after each part."""
    for name in names:
        make, number = OPERATIONS[name]
        operation = await make()
        await operation(number)
        for part in (number, 2 * number):
            gc.collect()
            mark()
            await operation(part)
            mark()


async def timed(name: str, part_s: float, parts: int) -> tuple[float, float]:
    """Return the median and the smallest processor microseconds of one operation, all threads together."""
    operation, step = await OPERATIONS[name][0](), 10 * OPERATIONS[name][1]
    await operation(step)
    costs = []
    for _ in range(parts):
        number, began = 0, time.process_time()
        while time.process_time() - began < part_s:
            await operation(step)
            number += step
        costs.append((time.process_time() - began) / number * 1e6)
    return statistics.median(costs), min(costs)


async def profiled(name: str) -> None:
    """Print the functions in which one operation spends its time; the profiler doubles what small ones cost."""
    operation, number = await OPERATIONS[name][0](), 20 * OPERATIONS[name][1]
    await operation(number)
    profile = cProfile.Profile()
    profile.enable()
    await operation(number)
    profile.disable()
    print(f"{name}, {number} operations")
    pstats.Stats(profile).sort_stats("tottime").print_stats(40)


async def main() -> None:
    """Run what the command line asks for inside the app's lifespan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operations", nargs="*", help=f"beginnings of: {', '.join(OPERATIONS)}")
    parser.add_argument("--marked", action="store_true", help="for benchmarks.instructions")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one part; the median of seven counts")
    arguments = parser.parse_args()
    wanted: list[str] = arguments.operations
    names = [name for name in OPERATIONS if not wanted or any(name.startswith(item) for item in wanted)]
    async with apps.app.faststate as engine:
        engine.settle_memory()
        if arguments.marked:
            await run_marked(names)
        elif arguments.profile:
            for name in names:
                await profiled(name)
        else:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
            for name in names:
                median, least = await timed(name, arguments.seconds, 7)
                print(f"{name:24} {median:8.2f} us   (least {least:.2f})", flush=True)
    # The streams that are still open need no farewell.
    os._exit(0) if arguments.marked else None


if __name__ == "__main__":
    uvloop.run(main())
