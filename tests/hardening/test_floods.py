"""Floods and slow readers: what one visitor sends or does not read costs the others nothing, and waits nowhere."""

import asyncio
import gc
import http.client
import json
import socket
import time
import tracemalloc
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from faststate_asgi import ReactiveState, event
from faststate_asgi.testing import FastStateClient, LiveStream
from tests.conftest import Serve
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
LARGE = 60_000
TABS = 100
WATCHED = {"faststate-live": "Wall"}
"""What a page with an open stream sends: its answers leave the values to the stream."""


class Wall(ReactiveState):
    """Everybody sees it; each change is large."""

    count: int = 0
    text: str = ""

    @event(inline=True)
    def toggle(self) -> None:
        self.count += 1
        self.text = "ab"[self.count % 2] * LARGE

    @event(inline=True, rate_limit="10/m")
    def toggle_rarely(self) -> None:
        self.count += 1
        self.text = "ab"[self.count % 2] * LARGE


class Own(ReactiveState):
    """Counts for one session."""

    count: int = 0

    @event
    def add(self) -> None:
        self.count += 1

    @event(rate_limit="3/m")
    def add_rarely(self) -> None:
        self.count += 1


def site(**settings: Any) -> Any:
    return wrapped((Wall, GLOBAL), Own, **settings)


async def open_tabs(stack: AsyncExitStack, client: FastStateClient, count: int) -> list[LiveStream]:
    """Open tabs that watch the wall, each with its first values."""
    tabs = [await stack.enter_async_context(client.another().stream("Wall")) for _ in range(count)]
    for tab in tabs:
        await tab.until(lambda signals: signals["count"] == 0)
    return tabs


# -- changes -----------------------------------------------------------------------------------------------------------


async def test_a_tab_that_reads_slowly_gets_merged_newest_values_only() -> None:
    """One who toggles a large value makes the server send, or keep, each change once for every slow tab."""
    app = site(write_deadline=600)
    async with FastStateClient(app) as client, AsyncExitStack() as stack:
        hub = app.faststate.hub
        quick, *slow = await open_tabs(stack, client, 1 + TABS)

        async def shown(tab: LiveStream, count: int) -> None:
            await tab.until(lambda signals: signals["count"] == count)

        for last in range(25, 101, 25):  # the slow ones read once in 25 changes
            seen, tried = [len(tab.frames) for tab in slow], hub.deliveries
            for tab in slow:
                tab.stall()
            for count in range(last - 24, last + 1):
                assert (await client.call("Wall/toggle", headers=WATCHED)).status == 204
                await shown(quick, count)
            assert hub.deliveries - tried == 25 + TABS, "a slow tab is tried once, then left alone"
            for tab in slow:
                tab.resume()
            for tab, before in zip(slow, seen, strict=True):
                await shown(tab, last)
                assert len(tab.frames) - before <= 2, "what was on its way, and the newest values"
                assert tab.signals["text"] == quick.signals["text"]


async def test_what_waits_for_a_hundred_slow_tabs_is_not_kept_for_each_of_them() -> None:
    """Changes that wait for those who do not read would fill the memory, a hundred times the change."""
    app = site(write_deadline=600)
    async with FastStateClient(app) as client, AsyncExitStack() as stack:
        for tab in await open_tabs(stack, client, TABS):
            tab.stall()

        async def held_after(toggles: int) -> tuple[int, int, int]:
            for _ in range(toggles):
                await client.call("Wall/toggle", headers=WATCHED)
            gc.collect()
            return len(gc.get_objects()), len(asyncio.all_tasks()), tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            objects, tasks, size = await held_after(3)
            more_objects, more_tasks, more_size = await held_after(60)
        finally:
            tracemalloc.stop()
        assert more_tasks == tasks
        assert more_objects - objects < 60 * 10, "the remembered answers of sixty clicks, nothing for each tab"
        assert more_size - size < 5 * LARGE


async def test_a_rate_limit_bounds_what_toggling_costs() -> None:
    """One script would use up the bandwidth of everybody who has the page open."""
    app = site()
    async with FastStateClient(app) as client, AsyncExitStack() as stack:
        tabs = await open_tabs(stack, client, 20)
        before = app.faststate.hub.deliveries
        calls = (client.call("Wall/toggle_rarely", headers=WATCHED, datastar=False) for _ in range(200))
        statuses = Counter(answer.status for answer in await asyncio.gather(*calls))
        assert (statuses[429], statuses.total()) == (190, 200)
        for tab in tabs:
            await tab.until(lambda signals: signals["count"] == 10)
        assert app.faststate.hub.deliveries - before <= 10 * len(tabs)


# -- events ------------------------------------------------------------------------------------------------------------


async def test_a_flood_of_one_visitor_leaves_the_others_alone() -> None:
    """One script would keep everybody else from clicking."""
    app = site()
    async with FastStateClient(app) as client:
        await client.call("Own/add")
        other = client.another()
        await other.call("Own/add")
        answers = await asyncio.gather(*(client.call("Own/add_rarely", datastar=False) for _ in range(200)))
        statuses = Counter(answer.status for answer in answers)
        assert (statuses[200], statuses[429]) == (3, 197)
        refused = next(answer for answer in answers if answer.status == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["status"] == 429
        assert len(refused.json()["detail"]) > 10
        for count in (2, 3, 4):
            assert (await other.call("Own/add_rarely")).signals == {"count": count}
        assert (await client.call("Own/add")).signals == {"count": 5}


@pytest.mark.parametrize("flooded", ["Own/add_rarely", "Own/add", "Wall/toggle"])
async def test_a_healthy_session_is_served_while_the_flood_lasts(flooded: str) -> None:
    """One script would keep everybody else from clicking for as long as it runs, refused or not."""
    app, statuses, is_over = site(), Counter[int](), asyncio.Event()
    async with FastStateClient(app) as client:
        attacker, healthy = client.another(), client.another()
        await attacker.call("Own/add")

        async def flood() -> None:
            while not is_over.is_set():
                answer = await attacker.call(flooded, headers=WATCHED, datastar=False)
                statuses[answer.status] += 1

        senders = [asyncio.create_task(flood()) for _ in range(50)]
        async with healthy.stream("Wall") as stream:
            for count in range(1, 16):
                sent = statuses.total()
                assert (await healthy.call("Own/add")).signals == {"count": count}
                await stream.until(lambda signals: "count" in signals)
                while statuses.total() < sent + 20:  # it goes on meanwhile
                    await asyncio.sleep(0)
            answer = await healthy.call("Wall/toggle", headers=WATCHED)
            assert answer.status == 204, "also where the flood goes"
        is_over.set()
        await asyncio.gather(*senders)
        assert statuses.total() >= 300
        assert set(statuses) <= {200, 204, 429, 503}
        assert (statuses[429] > 0) == flooded.endswith("rarely")
        stats = await app.faststate.stats()
        assert (stats["waiting"], stats["events_active"]) == (0, 0)


# -- readers at a real server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readers", "size", "deadline_s", "growth_mib"),
    [(30, 900_000, 1, 100), pytest.param(100, LARGE, 20, 20, marks=[pytest.mark.full, pytest.mark.timeout(300)])],
)
def test_readers_that_never_read_are_cut_off(
    serve: Serve, tmp_path: Path, slack: float, readers: int, size: int, deadline_s: int, growth_mib: int
) -> None:
    """Connections that are opened and never read would fill the server's memory with what waits for them."""
    env = {"MARKS": str(tmp_path), "FASTSTATE_WRITE_DEADLINE": str(deadline_s), "FASTSTATE_HEARTBEAT": "0.2"}
    server = serve("tests.hardening.counter_site:app", env=env | {"FASTSTATE_DEBUG": "true"})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)

    def memory_mib() -> int:
        pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
        return pages * 4096 >> 20

    def established() -> int:
        needle = f":{server.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(1 for row in rows if row[1].endswith(needle) and row[3] == "01")

    def streams() -> int:
        connection.request("GET", "/faststate/stats")
        return int(json.loads(connection.getresponse().read())["streams"])

    def fill() -> None:
        body = json.dumps({"text": "x" * size}).encode()
        connection.request("POST", "/faststate/events/Tally/fill", body, {"content-type": "application/json"})
        assert connection.getresponse().read() is not None

    for _ in range(5):  # what the first requests make for good
        fill()
    before, sockets = memory_mib(), []
    stall = b"GET /faststate/sse?states=Tally HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % server.port
    for _ in range(readers):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.connect(("127.0.0.1", server.port))
        one.sendall(stall)
        sockets.append(one)
    end, most = time.monotonic() + (deadline_s + 10) * slack, 0
    while streams() == 0:
        assert time.monotonic() < end
    while established() > 1 and time.monotonic() < end:
        fill()
        most = max(most, memory_mib())
    assert established() <= 1
    assert streams() == 0
    assert most < before + growth_mib
    connection.close()
    for one in sockets:
        one.close()
