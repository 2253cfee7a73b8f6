"""Streams that came and went leave nothing: no task, no open file, no connection of a store, no subscription."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
import redis as redis_client

from tests.apps.shared_clients import STORES, new_client, post, serve_many, settings_of, store_of
from tests.conftest import Serve
from tests.services import SiteServer

pytestmark = pytest.mark.anyio
AT_ONCE = 50


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    return store_of(request, tmp_path)


@dataclass(frozen=True)
class Count:
    """What a server holds."""

    tasks: int
    files: int
    threads: int
    connections: int
    subscriptions: int
    watched: int
    streams: int

    def exceeds(self, other: "Count", surplus: int) -> bool:
        """Return whether there is more of anything; a pool may have opened a few connections, which are files."""
        return (
            self.tasks > other.tasks
            or self.files > other.files + surplus
            or self.threads > other.threads + surplus
            or self.connections > other.connections + surplus
            or self.subscriptions > other.subscriptions
            or self.watched + self.streams > 0
        )


async def count(site: SiteServer, client: httpx.AsyncClient, url: str) -> Count:
    """Count everything of a server, by its own numbers, the system's and the store's."""
    stats = (await client.get(site.url + "/faststate/stats")).json()
    tasks = int((await client.get(site.url + "/tasks")).text)
    connections, subscriptions = await count_in_store(url)
    return Count(
        tasks,
        len(os.listdir(f"/proc/{site.pid}/fd")),
        len(os.listdir(f"/proc/{site.pid}/task")),
        connections,
        subscriptions,
        stats["watched_states"],
        stats["streams"],
    )


async def count_in_store(url: str) -> tuple[int, int]:
    """Return how many connections a store has, and how many channels are listened to."""
    if url.startswith("redis"):
        with redis_client.Redis.from_url(url) as client:
            return len(client.client_list()), len(client.pubsub_channels())
    if url.startswith("postgres"):
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            return await connection.fetchval(sql), 0
        finally:
            await connection.close()
    return 0, 0


async def come_and_go(site: SiteServer, number: int) -> None:
    """Open a stream of a record of its own, and leave: in order, by a reset, or before the first byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    target = f"/faststate/sse?states=Counter,Item:{number}"
    writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode())
    await writer.drain()
    if number % 3:
        async with asyncio.timeout(20):
            await reader.readuntil(b'"live":')
    if number % 3 == 1:
        writer.transport.abort()
    writer.close()


FULL = [pytest.mark.full, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("store_url", "streams"),
    [
        pytest.param("sqlite", 200),
        pytest.param("redis", 200, marks=pytest.mark.redis),
        pytest.param("postgres", 200, marks=pytest.mark.postgres),
        pytest.param("sqlite", 2000, marks=FULL),
        pytest.param("redis", 10_000, marks=[pytest.mark.redis, *FULL]),
        pytest.param("postgres", 2000, marks=[pytest.mark.postgres, *FULL]),
    ],
    indirect=["store_url"],
)
async def test_streams_that_came_and_went_leave_nothing(serve: Serve, store_url: str, streams: int) -> None:
    (site,) = await serve_many(serve, 1, settings_of(store_url, lease=1, resync_interval=1))
    async with new_client() as client:

        async def rounds(first: int, last: int) -> None:
            for start in range(first, last, AT_ONCE):
                coming = [come_and_go(site, number) for number in range(start, start + AT_ONCE)]
                bumps = [post(client, site.url, "Counter/bump") for _ in range(3)]
                await asyncio.gather(*coming, *bumps)

        await rounds(0, 2 * AT_ONCE)
        await asyncio.sleep(2)
        before = await count(site, client, store_url)
        await rounds(0, streams)
        surplus = 5  # connections of a pool, which stay, however many streams there were
        now = await count(site, client, store_url)
        try:
            async with asyncio.timeout(15):
                while now.exceeds(before, surplus):
                    await asyncio.sleep(0.2)
                    now = await count(site, client, store_url)
        except TimeoutError:
            raise AssertionError(f"{before} became {now}") from None
        if store_url.startswith("redis"):
            assert now.subscriptions == 1, "the channel for everybody"
