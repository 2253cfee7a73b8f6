"""Hundreds of tabs that behave as browsers do: they come back when the server has said, and later each time they find nobody."""

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from faststate_asgi.testing.sse import FrameReader, apply
from tests.services import SiteServer, require

LONGEST_PAUSE_S = 30.0


class HerdTab:
    """One tab over a connection of its own; `herd` opens and closes it.

    Args:
        port: of the server.
        states: names that are watched.
    """

    def __init__(self, port: int, states: str) -> None:
        self._port, self._states = port, states
        self.signals: dict[str, Any] = {}
        self.opened_at: list[float] = []
        self.is_open = False
        self._retry_s = 1.0
        self._last_id = ""

    async def stay(self) -> None:
        """Follow the stream, and open it again whenever it ends."""
        pause_s = 0.0
        while True:
            opened = len(self.opened_at)
            with suppress(OSError, EOFError):
                await self._follow()
            self.is_open = False
            has_failed = len(self.opened_at) == opened
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if has_failed and pause_s else self._retry_s
            await asyncio.sleep(pause_s)

    async def _follow(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            id_line = f"Last-Event-ID: {self._last_id}\r\n" if self._last_id else ""
            target = f"/faststate/sse?states={self._states}"
            writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n{id_line}\r\n".encode())
            if not (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 "):
                return
            frames = FrameReader()
            while size := int(await reader.readuntil(b"\r\n"), 16):
                for frame in frames.feed((await reader.readexactly(size + 2))[:-2]):
                    apply(self.signals, frame)
                    self._last_id = frame.id or self._last_id
                    self._retry_s = self._retry_s if frame.retry is None else frame.retry / 1000
                if not self.is_open:
                    self.is_open = True
                    self.opened_at.append(asyncio.get_running_loop().time())
        finally:
            writer.close()


@asynccontextmanager
async def herd(site: SiteServer, count: int, states: str) -> AsyncIterator[list[HerdTab]]:
    """Yield tabs, all of them open."""
    allow_files(2 * count + 500)
    tabs = [HerdTab(site.port, states) for _ in range(count)]
    staying: list[asyncio.Task[None]] = []
    try:
        for tab in tabs:
            staying.append(asyncio.create_task(tab.stay()))
            if len(staying) % 50 == 0:
                await all_open(tabs[: len(staying)], 1, 60)
        await all_open(tabs, 1, 60)
        yield tabs
    finally:
        for task in staying:
            task.cancel()
        await asyncio.gather(*staying, return_exceptions=True)


def allow_files(count: int) -> None:
    """Let this process, and those that it starts, have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    require(f"the right to open {count} files (ulimit -n)", hard == resource.RLIM_INFINITY or hard >= count)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


async def all_open(tabs: Sequence[HerdTab], times: int, within_s: float) -> None:
    """Return when every tab has been opened so many times, and is open."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not all(tab.is_open and len(tab.opened_at) >= times for tab in tabs):
                await asyncio.sleep(0.02)
            return
    missing = sum(not tab.is_open or len(tab.opened_at) < times for tab in tabs)
    raise AssertionError(f"{missing} of {len(tabs)} tabs are not open after {within_s} s")


def most_in_one_second(moments: Sequence[float]) -> int:
    """Return how many of the moments lie in the fullest second."""
    first = min(moments)
    return max(Counter(int(moment - first) for moment in moments).values())
