"""Readers at a real server that stand still, recover or are gone: what is kept for them is bounded, and they cost nobody else."""

import asyncio
import ctypes
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from faststate_asgi.testing.sse import Frame, FrameReader
from tests.apps.shared_clients import new_client, post
from tests.conftest import Serve
from tests.services import SiteServer

pytestmark = pytest.mark.anyio
APP = "tests.hardening.counter_site:app"
SERVERS = {
    "httptools": ("--http", "httptools", "--loop", "uvloop"),
    "h11": ("--http", "h11", "--loop", "asyncio"),
}
FULL = [pytest.mark.full, pytest.mark.timeout(300)]
OWN_BYTES = 4096
SO_ATTACH_FILTER = 26
LARGE = 60_000


class Reader:
    """A stream's reader that takes bytes only when it is told to; it is closed by `readers`."""

    def __init__(self, site: SiteServer) -> None:
        self.sock = socket.socket()
        # The peer's kernel holds little, so that what the server's holds can be seen.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, OWN_BYTES)
        self.sock.connect(("127.0.0.1", site.port))
        request = f"GET /faststate/sse?states=Tally HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n"
        self.sock.sendall(request.encode())
        self.frames: list[Frame] = []
        self.taken = 0
        self._parts = FrameReader()
        self._body = b""

    @property
    def port(self) -> int:
        """The port of this end, which tells its connection from others."""
        port: int = self.sock.getsockname()[1]
        return port

    def pull_the_cable(self) -> None:
        """Let no packet arrive here any more, so that nothing is acknowledged either."""
        refuse_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes of a packet
        program = struct.pack("HP", 1, ctypes.addressof(refuse_all))
        self.sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    async def read_until(self, count: int, slack: float, bytes_per_s: int | None = None) -> None:
        """Take all that there is, or no more than so much in a second, until the count is shown."""
        self.sock.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60 * slack):
            while not any(shown(frame) == count for frame in self.frames):
                if bytes_per_s is not None:
                    await asyncio.sleep(0.05)
                data = await loop.sock_recv(self.sock, 1 << 16 if bytes_per_s is None else bytes_per_s // 20)
                assert data, "the stream has ended"
                self.taken += len(data)
                self.frames += self._parts.feed(self._unchunked(data))

    def _unchunked(self, data: bytes) -> bytes:
        """Return the text of the whole chunks so far."""
        self._body += data
        if self._body.startswith(b"HTTP/"):
            _, end, rest = self._body.partition(b"\r\n\r\n")
            if not end:
                return b""
            self._body = rest
        text = b""
        while b"\r\n" in self._body:
            length, _, rest = self._body.partition(b"\r\n")
            size = int(length, 16)
            if len(rest) < size + 2:
                break
            text += rest[:size]
            self._body = rest[size + 2 :]
        return text


def shown(frame: Frame) -> int | None:
    """Return the count that a frame brings, None if it brings none."""
    tally = (frame.patch or {}).get("Tally")
    return tally.get("total") if isinstance(tally, dict) else None


@contextmanager
def readers(site: SiteServer, count: int) -> Iterator[list[Reader]]:
    """Yield readers, none of which reads by itself."""
    opened: list[Reader] = []
    try:
        for _ in range(count):
            opened.append(Reader(site))
        yield opened
    finally:
        for reader in opened:
            reader.sock.close()


def unsent(site: SiteServer) -> dict[int, int]:
    """Return how many bytes the kernel holds for each port that is connected to the server."""
    held: dict[int, int] = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        own, peer, state, queues = line.split()[1:5]
        if own.endswith(f":{site.port:04X}") and state == "01":
            held[int(peer.partition(":")[2], 16)] = int(queues.partition(":")[0], 16)
    return held


async def stats(client: httpx.AsyncClient, site: SiteServer) -> dict[str, int]:
    """Return what a server says of itself."""
    return dict((await client.get(site.url + "/faststate/stats")).json())


async def until_streams(client: httpx.AsyncClient, site: SiteServer, count: int, within_s: float) -> float:
    """Return after how many seconds the server has as many streams as wanted."""
    began = time.monotonic()
    while (now := (await stats(client, site))["streams"]) != count:
        assert time.monotonic() - began < within_s, f"{now} streams are open"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def fill(client: httpx.AsyncClient, site: SiteServer, size: int) -> int:
    """Make the state large, and return its count."""
    answer = await post(client, site.url, "Tally/fill", text="x" * size)
    assert answer.status_code == 200, answer.text
    return int(answer.text.partition('"total":')[2].partition(",")[0].rstrip("}"))


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("changes", [300, pytest.param(10_000, marks=FULL)])
async def test_r13_the_kernel_holds_little_for_a_stalled_reader_which_then_gets_the_newest_value(
    serve: Serve, tmp_path: Path, slack: float, kind: str, changes: int
) -> None:
    env = {"MARKS": str(tmp_path), "FASTSTATE_DEBUG": "true", "FASTSTATE_WRITE_DEADLINE": "600"}
    site = serve(APP, *SERVERS[kind], env=env)
    async with new_client() as client:
        with readers(site, 1) as (reader,):
            await until_streams(client, site, 1, 10 * slack)
            for _ in range(changes):
                last = await fill(client, site, LARGE)
            assert unsent(site)[reader.port] <= 256 * 1024
            await reader.read_until(last, slack)
            assert reader.taken < 256 * 1024 + 4 * LARGE
            assert len(reader.frames) <= 10, "what was on its way, and the newest value"
            # It has not become slow for good.
            last = await fill(client, site, LARGE)
            await reader.read_until(last, slack)


@pytest.mark.parametrize(("stalled", "deadline_s"), [(30, 1), pytest.param(100, 20, marks=FULL)])
async def test_r12_readers_that_stand_still_are_cut_off_while_others_are_served(
    serve: Serve, tmp_path: Path, slack: float, stalled: int, deadline_s: int
) -> None:
    heartbeat_s = 15 if deadline_s == 20 else 0.5
    settings = {"DEBUG": "true", "WRITE_DEADLINE": deadline_s, "HEARTBEAT": heartbeat_s}
    env = {"MARKS": str(tmp_path), **{f"FASTSTATE_{name}": str(value) for name, value in settings.items()}}
    site = serve(APP, env=env)
    async with new_client() as client:
        with readers(site, stalled) as gone, readers(site, stalled) as healthy:
            await until_streams(client, site, 2 * stalled, 10 * slack)
            began = time.monotonic()
            while (now := (await stats(client, site))["streams"]) > stalled:
                assert time.monotonic() - began < (deadline_s + heartbeat_s + 10) * slack, f"{now} streams are open"
                last = await fill(client, site, LARGE)
                await asyncio.gather(*(reader.read_until(last, slack) for reader in healthy))
            assert now == stalled
            held = unsent(site)
            assert not any(reader.port in held for reader in gone), "their connections are closed"
            assert all(reader.port in held for reader in healthy)


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(("deadline_s", "bytes_per_s"), [(2, 80_000), pytest.param(20, 10_000, marks=FULL)])
async def test_r12_a_slow_reader_keeps_its_stream_while_it_takes_bytes(
    serve: Serve, tmp_path: Path, slack: float, kind: str, deadline_s: int, bytes_per_s: int
) -> None:
    settings = {"DEBUG": "true", "WRITE_DEADLINE": deadline_s, "HEARTBEAT": 0.5}
    env = {"MARKS": str(tmp_path), **{f"FASTSTATE_{name}": str(value) for name, value in settings.items()}}
    site = serve(APP, *SERVERS[kind], env=env)
    async with new_client() as client:
        with readers(site, 1) as (slow,):
            await until_streams(client, site, 1, 10 * slack)
            began = time.monotonic()
            last = await fill(client, site, 500_000)
            await slow.read_until(last, slack, bytes_per_s)
            assert time.monotonic() - began > 2 * deadline_s, "one write took several deadlines"
            await slow.read_until(await fill(client, site, 10), slack)


@pytest.mark.parametrize(
    ("kind", "heartbeat_s", "deadline_s"),
    [("httptools", 0.5, 1), *(pytest.param(kind, 15, 20, marks=FULL) for kind in SERVERS)],
)
async def test_r36_a_quiet_stream_ends_when_the_cable_of_its_reader_was_pulled(
    serve: Serve, tmp_path: Path, slack: float, kind: str, heartbeat_s: float, deadline_s: float
) -> None:
    settings = {"DEBUG": "true", "WRITE_DEADLINE": deadline_s, "HEARTBEAT": heartbeat_s}
    env = {"MARKS": str(tmp_path), **{f"FASTSTATE_{name}": str(value) for name, value in settings.items()}}
    site = serve(APP, *SERVERS[kind], env=env)
    async with new_client() as client:
        with readers(site, 2) as (gone, other):
            await until_streams(client, site, 2, 10 * slack)
            gone.pull_the_cable()
            # Nothing changes: what is not acknowledged is a heartbeat.
            await until_streams(client, site, 1, (heartbeat_s + deadline_s + 10) * slack)
            assert list(unsent(site)).count(other.port) == 1
            await other.read_until(await fill(client, site, 10), slack)
