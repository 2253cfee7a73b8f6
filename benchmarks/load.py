"""A closed-loop HTTP/1.1 load generator that is cheaper than any server it measures.

N kept-alive connections; each sends the next event when it has the whole answer to the last. It runs in the
calling process, which `benchmarks.servers.take_load_core` keeps away from the server.
"""

import asyncio
import gc
import itertools
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

from benchmarks.report import quantile

BUSY_SHARE = 0.90
FIRST_ANSWERS_DEADLINE_S = 10.0
LAST_ANSWERS_DEADLINE_S = 10.0
COUNT = re.compile(rb'"count":\s*(\d+)')
COOKIE = re.compile(rb"\r\nset-cookie: ([^;\r]+)", re.IGNORECASE)
# What a browser on a page of the same site sends with a Datastar action; floor and package get the same.
HEAD = (
    "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: keep-alive\r\nContent-Length: {length}\r\n"
    'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24"\r\nsec-ch-ua-mobile: ?0\r\n'
    'sec-ch-ua-platform: "Linux"\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 '
    "(KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nContent-Type: application/json\r\n"
    "Datastar-Request: true\r\nFastState-Live: undefined\r\n"
    "Accept: text/event-stream, text/html, application/json\r\nOrigin: http://127.0.0.1:{port}\r\n"
    "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n"
    "Referer: http://127.0.0.1:{port}/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-GB,en;q=0.9\r\nCookie: {cookie}\r\nIdempotency-Key: "
)
# The size of a signed session cookie, for servers that set none.
PLAIN_COOKIE = "faststate_session=" + "0123456789abcdef" * 5


@dataclass(frozen=True, slots=True)
class Target:
    """Where one variant's events go, what each answer must contain to count, and who speaks with the server."""

    port: int
    path: str
    body: bytes = b'{"amount":1}'
    expect: bytes = b'"count":'
    connection: "type[Connection] | None" = None


@dataclass(slots=True)
class Measurement:
    """What one run saw; answers and latencies are those of the timed window only."""

    answers: int = 0
    failures: int = 0
    first_failure: bytes = b""
    seconds: float = 0.0
    generator_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    growths: list[int] = field(default_factory=list)
    all_answers: int = 0
    counts: tuple[int, int] = (0, 0)

    @property
    def rate(self) -> float:
        """Return answers per second."""
        return self.answers / self.seconds

    @property
    def server_cpu_us(self) -> float:
        """Return processor microseconds that the server spent on one answer."""
        return self.server_cpu_s / max(self.answers, 1) * 1e6

    @property
    def server_share(self) -> float:
        """Return the part of its core that the server used."""
        return self.server_cpu_s / self.seconds

    @property
    def generator_share(self) -> float:
        """Return the part of its core that the generator itself used."""
        return self.generator_cpu_s / self.seconds

    @property
    def is_generator_bound(self) -> bool:
        """Say whether the generator, not the server, set the pace."""
        return self.generator_share > BUSY_SHARE

    def latency_us(self, part: float) -> float:
        """Return the latency below which this part (0 to 1) of the answers stayed."""
        return quantile(self.latencies_s, part) * 1e6


def body_of(answer: bytes) -> bytes | None:
    """Return the body of an HTTP/1.1 answer, or None while some of it is still to come."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, body = answer[: end + 2].lower(), answer[end + 4 :]
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 : head.index(b"\r", at + 2)])
        return body if len(body) >= length else None
    if b"\r\ntransfer-encoding: chunked" in head:
        return body if body.endswith(b"0\r\n\r\n") else None
    return body


class Connection(asyncio.Protocol):
    """One browser's connection: sends, waits for the answer, sends again; lives for one run."""

    count = COUNT

    def __init__(self, load: "Load") -> None:
        """Belong to a load that says when to stop."""
        self.load = load
        self.transport: asyncio.Transport | None = None
        self.head = b""
        self.tail = b"\r\n\r\n" + load.target.body
        self.buffer = b""
        self.sent_at = 0.0
        self.answered = 0
        self.first_body = b""
        self.last_body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first event with a cookie that no server knows."""
        # uvloop's transport has the methods but not the base class.
        self.transport = cast("asyncio.Transport", transport)
        self.use_cookie("")
        self.send()

    def use_cookie(self, cookie: str) -> None:
        """Send this cookie from now on; an empty text means a plain one of the usual size."""
        target = self.load.target
        length, cookie = len(target.body), cookie or PLAIN_COOKIE
        self.head = HEAD.format(path=target.path, port=target.port, length=length, cookie=cookie).encode()

    def send(self) -> None:
        """Write one event with an idempotency key that was never used."""
        assert self.transport is not None
        self.sent_at = time.perf_counter()
        self.transport.write(self.head + self.load.next_key() + self.tail)

    def data_received(self, data: bytes) -> None:
        """Take a whole answer, check it, and go on until the load is over."""
        answer = self.buffer + data if self.buffer else data
        body = body_of(answer)
        if body is None:
            self.buffer = answer
            return
        self.buffer = b""
        is_right = answer.startswith(b"HTTP/1.1 200") and self.load.target.expect in answer
        self.take(answer, body, is_right=is_right)

    def take(self, answer: bytes, body: bytes, *, is_right: bool) -> None:
        """Count a whole answer, and go on until the load is over."""
        self.last_body = body
        self.load.take(time.perf_counter() - self.sent_at, answer, is_right=is_right)
        self.answered += 1
        if self.answered == 1:
            self.keep_first(answer, body)
        elif self.load.is_over:
            self.load.leave()
        else:
            self.send()

    def keep_first(self, answer: bytes, body: bytes) -> None:
        """Use the session that the first answer brought and wait for the start with the others."""
        self.first_body = body
        cookie = COOKIE.search(answer)
        if cookie is not None:
            self.use_cookie(cookie[1].decode())
        self.load.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that the server closed while it was in use."""
        if not self.load.is_over:
            self.load.fail(b"connection lost")


class Load:
    """One run against one target; made, run once and thrown away."""

    def __init__(self, target: Target, server_cpu_s: Callable[[], float]) -> None:
        """Prepare a run; `server_cpu_s` is read at both ends of the timed window."""
        self.target = target
        self.server_cpu_s = server_cpu_s
        self.seen = Measurement()
        self.is_timed = False
        self.is_over = False
        self.waiting = 0
        self.all_there = asyncio.Event()
        # A window without any answer has no rate.
        self.first_timed = asyncio.Event()
        prefix = "-".join(str(secrets.randbelow(9 * 10**9) + 10**9) for _ in range(3)).encode()
        keys = itertools.count(1)
        self.next_key: Callable[[], bytes] = lambda: b"%s-%010d" % (prefix, next(keys))

    def take(self, latency_s: float, answer: bytes, *, is_right: bool) -> None:
        """Count one answer."""
        if not is_right:
            self.fail(answer)
        self.seen.all_answers += 1
        if self.is_timed:
            self.seen.answers += 1
            if self.seen.answers == 1:
                self.first_timed.set()
            self.seen.latencies_s.append(latency_s)

    def fail(self, what: bytes) -> None:
        """Count one wrong answer and keep the first for the report."""
        self.seen.failures += 1
        self.seen.first_failure = self.seen.first_failure or what[:600]

    def leave(self) -> None:
        """Note that one connection is done with this part of the run."""
        self.waiting -= 1
        if self.waiting == 0:
            self.all_there.set()

    async def run(self, connections: int, warm_up_s: float, seconds: float) -> Measurement:
        """Get a session for each connection, warm up, measure, and let the last answers arrive.

        Raises:
            RuntimeError: the first answers were wrong already.
        """
        made = await self._connect(connections)
        if self.seen.failures:
            raise RuntimeError(f"{self.target.path} does not answer as it should: {self.seen.first_failure!r}")
        self._expect(connections)
        for connection in made:
            connection.send()
        await asyncio.sleep(warm_up_s)
        await self._measure(seconds)
        await asyncio.wait_for(self.all_there.wait(), LAST_ANSWERS_DEADLINE_S)
        self._note_counts(made)
        for connection in made:
            assert connection.transport is not None
            connection.transport.close()
        return self.seen

    def _expect(self, connections: int) -> None:
        """Begin to wait for this many connections."""
        self.waiting = connections
        self.all_there.clear()

    async def _connect(self, connections: int) -> list[Connection]:
        """Open the connections and wait for the first answer on each."""
        self._expect(connections)
        loop = asyncio.get_running_loop()
        make = self.target.connection or Connection
        opened = [
            await loop.create_connection(lambda: make(self), "127.0.0.1", self.target.port) for _ in range(connections)
        ]
        await asyncio.wait_for(self.all_there.wait(), FIRST_ANSWERS_DEADLINE_S)
        return [connection for _, connection in opened]

    async def _measure(self, seconds: float) -> None:
        """Open the timed window, close it after `seconds` and an answer, and note what both sides spent in it."""
        generator_cpu, server_cpu, began = time.process_time(), self.server_cpu_s(), time.perf_counter()
        self.is_timed = True
        await asyncio.sleep(seconds)
        await asyncio.wait_for(self.first_timed.wait(), LAST_ANSWERS_DEADLINE_S)
        self.is_timed, self.is_over = False, True
        self.seen.seconds = time.perf_counter() - began
        self.seen.generator_cpu_s = time.process_time() - generator_cpu
        self.seen.server_cpu_s = self.server_cpu_s() - server_cpu

    def _note_counts(self, made: list[Connection]) -> None:
        """Keep how far the counter in the answers moved, so that a lost or doubled event shows."""
        firsts = [count_in(connection.first_body, connection.count) for connection in made]
        lasts = [count_in(connection.last_body, connection.count) for connection in made]
        self.seen.growths = [last - first for first, last in zip(firsts, lasts, strict=True)]
        self.seen.counts = (max(firsts), max(lasts))


def count_in(body: bytes, count: re.Pattern[bytes] = COUNT) -> int:
    """Return the counter that an answer shows, or 0 where it shows none."""
    found = count.search(body)
    return int(found[1]) if found else 0


def measure(
    target: Target,
    server_cpu_s: Callable[[], float],
    connections: int = 32,
    warm_up_s: float = 0.3,
    seconds: float = 3.0,
) -> Measurement:
    """Run one load to its end on a loop of its own, with the generator's garbage collector off."""

    async def run() -> Measurement:
        return await Load(target, server_cpu_s).run(connections, warm_up_s, seconds)

    gc.collect()
    gc.disable()
    try:
        return uvloop.run(run())
    finally:
        gc.enable()
