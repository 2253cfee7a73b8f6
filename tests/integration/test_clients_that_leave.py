"""Clients that leave in the middle of an event: what has begun is done whole, and nothing stays behind."""

import asyncio
import random
import struct
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import httpx
import pytest

from tests.apps.leaving_site import STEPS
from tests.apps.shared_clients import new_client, settings_of, store_of
from tests.apps.table_site import Foreign
from tests.conftest import Serve
from tests.services import SiteServer

pytestmark = pytest.mark.anyio
APP = "tests.apps.leaving_site:app"
TABLES = {
    "sqlite": "CREATE TABLE note (id INTEGER PRIMARY KEY)",
    "postgres": "CREATE TABLE note (id SERIAL PRIMARY KEY)",
}
BUSY = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
WRAPPED = pytest.mark.parametrize("is_wrapped", [False, True], ids=["plain", "wrapped"])
FULL = [pytest.mark.full, pytest.mark.timeout(300)]


def environment(is_wrapped: bool) -> dict[str, str]:
    return {"WRAPPED": "1"} if is_wrapped else {}


async def leave_during(site: SiteServer, target: str, chance: random.Random, most_s: float) -> None:
    """Send an event, and leave after a random time: in order, or by a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    head = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nDatastar-Request: true\r\nContent-Length: 2\r\n\r\n{{}}"
    writer.write(head.encode())
    await writer.drain()
    await asyncio.sleep(chance.uniform(0, most_s))
    if chance.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    del reader


async def leave_often(site: SiteServer, times: int, target: str, most_s: float, at_once: int = 20) -> None:
    """Leave many times, some of them at the same time."""
    chance, numbers = random.Random(times), iter(range(times))

    async def visit() -> None:
        for number in numbers:
            await leave_during(site, target.format(number), chance, most_s)

    await asyncio.gather(*(visit() for _ in range(at_once)))


async def get(client: httpx.AsyncClient, site: SiteServer, path: str) -> Any:
    """Return what a page says."""
    return (await client.get(site.url + path)).json()


async def until(client: httpx.AsyncClient, site: SiteServer, path: str, is_so: Any, within_s: float) -> Any:
    """Return what a page says once it is as wanted."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while not is_so(found := await get(client, site, path)):
        assert loop.time() < end, found
        await asyncio.sleep(0.02)
    return found


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Foreign]:
    """The address of a database of each kind, and another program that has made the site's table in it."""
    url = store_of(request, tmp_path)
    foreign = Foreign(url)
    await foreign.run(TABLES[request.param])
    return url, foreign


@pytest.mark.parametrize(
    ("times", "is_wrapped"), [(60, False), pytest.param(500, False, marks=FULL), pytest.param(500, True, marks=FULL)]
)
async def test_r25_an_event_whose_client_leaves_is_done_whole_and_gives_its_connection_back(
    serve: Serve, database: tuple[str, Foreign], slack: float, times: int, is_wrapped: bool
) -> None:
    url, foreign = database
    site = await asyncio.to_thread(serve, APP, env=settings_of(url) | environment(is_wrapped))
    async with new_client() as client:
        await leave_often(site, times, "/faststate/events/Pair/add", 0.05)
        idle = {"events_active": 0, "waiting": 0}
        await until(client, site, "/faststate/stats", lambda stats: stats | idle == stats, 30 * slack)
        first, second = await get(client, site, "/pair")
        assert first == second
        ((rows,),) = await foreign.run("SELECT count(*) FROM note")
        assert rows == first
        assert first > 0, "some of them were heard"
        async with asyncio.timeout(1 * slack):
            # On SQLite nobody else could write while a connection is in use.
            while url.startswith("postgres") and (await foreign.run(BUSY))[0][0]:
                await asyncio.sleep(0.05)
            await foreign.run("DELETE FROM note")
        assert (await client.post(site.url + "/faststate/events/Pair/add", json={})).status_code == 200
        assert await get(client, site, "/pair") == [first + 1, first + 1]


@WRAPPED
@pytest.mark.parametrize("times", [30, pytest.param(200, marks=FULL)])
async def test_r26_a_generator_whose_client_leaves_goes_on_to_its_end(
    serve: Serve, tmp_path: Path, slack: float, times: int, is_wrapped: bool
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/leaving.db"
    site = await asyncio.to_thread(serve, APP, env=settings_of(url) | environment(is_wrapped))
    async with new_client() as client:
        await leave_often(site, times, "/faststate/events/Walk/finish?record_id={}", 2 * STEPS * 0.03)
        done = await until(
            client,
            site,
            "/happened",
            lambda now: now["begun"] == now["finalised"] > 0,
            10 * slack,
        )
        assert done["finished"] == done["begun"]
        steps = [await get(client, site, f"/step/{number}") for number in range(times)]
        assert steps.count(STEPS) == done["begun"]
        assert set(steps) <= {0, STEPS}


@WRAPPED
@pytest.mark.parametrize("times", [30, pytest.param(200, marks=FULL)])
async def test_r26_a_generator_that_wants_to_stop_is_closed_when_its_client_leaves(
    serve: Serve, tmp_path: Path, slack: float, times: int, is_wrapped: bool
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/leaving.db"
    site = await asyncio.to_thread(serve, APP, env=settings_of(url) | environment(is_wrapped))
    async with new_client() as client:
        await leave_often(site, times, "/faststate/events/Walk/stop?record_id={}", 0.3)
        done = await until(
            client, site, "/happened", lambda now: now["begun"] == now["finalised"] > times / 2, 1 * slack
        )
        assert done["finished"] == 0
        # Its turn is free.
        answer = await client.post(site.url + "/faststate/events/Walk/finish?record_id=0", json={})
        assert answer.status_code == 200
        stats = await get(client, site, "/faststate/stats")
        assert (stats["events_active"], stats["waiting"]) == (0, 0)
