"""Servers that die in the middle of their work: no click is lost, none runs twice, nobody waits longer than a lease."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.apps.shared_clients import (
    APP,
    FEWER_STORES,
    STORES,
    Tab,
    all_show,
    clickers,
    new_client,
    post,
    serve_many,
    settings_of,
    store_of,
    tabs_on,
    visitor,
)
from tests.conftest import Serve
from tests.services import SiteServer

pytestmark = pytest.mark.anyio
LEASE_S = 1.0


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    return store_of(request, tmp_path)


class Fleet:
    """Servers of which one is killed now and then, and started again in its place."""

    def __init__(self, serve: Serve, env: dict[str, str], sites: list[SiteServer]) -> None:
        self.serve, self.env, self.sites = serve, env, sites

    def urls(self) -> list[str]:
        return [site.url for site in self.sites]

    async def kill(self, number: int) -> None:
        """Kill a server as a power cut would, and start another one at its address."""
        victim = self.sites[number]
        victim.kill()
        await asyncio.to_thread(victim.wait)
        self.sites[number] = await asyncio.to_thread(self._start, victim.port)

    async def kill_often(self, times: int) -> None:
        """Kill servers at random, one of each half at a time."""
        middle, left = len(self.sites) // 2, iter(range(times))

        async def haunt(numbers: range) -> None:
            for _ in left:
                await asyncio.sleep(random.uniform(0.1, 0.6))
                await self.kill(random.choice(numbers))

        await asyncio.gather(haunt(range(middle)), haunt(range(middle, len(self.sites))))

    def _start(self, port: int) -> SiteServer:
        return self.serve(APP, env=self.env, port=port)


@asynccontextmanager
async def transfers(urls: Callable[[], Sequence[str]]) -> AsyncIterator[list[int]]:
    """Move one between two items again and again meanwhile, whatever is answered; yield the statuses."""
    statuses: list[int] = []

    async def move() -> None:
        async with new_client() as client:
            while True:
                source, target = random.sample(("1", "2"), 2)
                with suppress(httpx.TransportError):
                    url = f"{random.choice(urls())}/move?source={source}&target={target}"
                    statuses.append((await client.post(url)).status_code)
                await asyncio.sleep(0.05)

    moving = asyncio.create_task(move())
    try:
        yield statuses
    finally:
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)


FULL = [pytest.mark.full, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("store_url", "servers", "kills", "tabs"),
    [
        pytest.param("sqlite", 3, 2, 6),
        pytest.param("redis", 3, 2, 6, marks=pytest.mark.redis),
        pytest.param("postgres", 3, 2, 6, marks=pytest.mark.postgres),
        pytest.param("sqlite", 4, 40, 20, marks=FULL),
        pytest.param("redis", 4, 200, 20, marks=[pytest.mark.redis, *FULL]),
        pytest.param("postgres", 4, 40, 20, marks=[pytest.mark.postgres, *FULL]),
    ],
    indirect=["store_url"],
)
async def test_r1_r30_every_click_counts_once_and_every_transfer_is_whole_while_servers_are_killed(
    serve: Serve, store_url: str, servers: int, kills: int, tabs: int, slack: float
) -> None:
    env = settings_of(store_url, lease=LEASE_S, resync_interval=1)
    fleet = Fleet(serve, env, await serve_many(serve, servers, env))
    is_over = asyncio.Event()
    async with clickers(8, fleet.urls) as people, tabs_on(fleet.sites, tabs, "Counter") as pages:
        acknowledged = [0] * len(people)

        async def work(number: int) -> None:
            while not is_over.is_set():
                await people[number].click("Counter/bump")
                acknowledged[number] += 1

        async with transfers(fleet.urls) as statuses:
            working = [asyncio.create_task(work(number)) for number in range(len(people))]
            try:
                await fleet.kill_often(kills)
                async with asyncio.timeout(20 * slack):
                    while statuses.count(200) < min(1000, 5 * kills):
                        await asyncio.sleep(0.05)
            finally:
                is_over.set()
            await asyncio.gather(*working)
        assert sum(person.repeats for person in people) > 0
        final = sum(acknowledged)
        async with new_client() as client:
            shown = await post(client, fleet.urls()[0], "Counter/bump")
            assert (await client.get(fleet.urls()[0] + "/sum?first=1&second=2")).text == "0"
        assert f'"count":{final + 1}' in shown.text, (final, shown.text)
        await all_show(pages, "Counter.count", final + 1)
        assert max(person.slowest_s for person in people) < (2 * LEASE_S + 3) * slack


class DeadlyProxy:
    """Stands between a server and Redis; once armed it kills the server as soon as a commit has been made, without telling it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.victim: SiteServer | None = None
        self.kills = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        """Yield the port at which it listens."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        is_commit = asyncio.Event()
        there = asyncio.create_task(self._ask(reader, far_writer, is_commit))
        try:
            with suppress(OSError):
                while data := await far_reader.read(1 << 16):
                    if is_commit.is_set() and self.victim is not None:
                        self.victim.kill()
                        self.victim, self.kills = None, self.kills + 1
                        return
                    writer.write(data)
        finally:
            there.cancel()
            writer.close()
            far_writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_commit: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if b'"count":' in data:
                    is_commit.set()
                writer.write(data)
        writer.close()


@pytest.mark.redis
@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_r2_a_commit_whose_server_is_killed_before_it_knows_reaches_the_tabs_of_the_others(
    serve: Serve, redis_url: str, kills: int, slack: float
) -> None:
    own_port = urlsplit(redis_url).port
    assert own_port is not None
    proxy = DeadlyProxy(own_port)
    async with proxy.open() as port, new_client() as client:
        env = settings_of(redis_url.replace(f":{own_port}", f":{port}"), lease=LEASE_S)
        (other,) = await serve_many(serve, 1, settings_of(redis_url, lease=LEASE_S))
        (victim,) = await serve_many(serve, 1, env)
        async with Tab(other.url, "Counter") as tab:
            await tab.shows("Counter.count", 0)
            for number in range(1, kills + 1):
                proxy.victim = victim
                with pytest.raises(httpx.TransportError):
                    await post(client, victim.url, "Counter/bump", f"click-{number}")
                assert proxy.kills == number
                await tab.shows("Counter.count", number, 5.5 * slack)
                again = await post(client, other.url, "Counter/bump", f"click-{number}")
                assert f'"count":{number}' in again.text, "the click that was made is answered, not made again"
                await asyncio.to_thread(victim.wait)
                victim = await asyncio.to_thread(serve, APP, env=env, port=victim.port)


@pytest.mark.parametrize("store_url", FEWER_STORES, indirect=True)
async def test_r3_the_turn_of_a_killed_server_is_free_when_its_lease_is_over(
    serve: Serve, store_url: str, slack: float
) -> None:
    env = settings_of(store_url, lease=LEASE_S)
    victim, survivor = await serve_many(serve, 2, env)
    loop = asyncio.get_running_loop()
    async with new_client() as client:
        holding = asyncio.create_task(post(client, victim.url, "Counter/hold", seconds=30))
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(post(client, survivor.url, "Counter/bump"))
        await asyncio.sleep(2 * LEASE_S)
        assert not waiting.done(), "the holder lives and renews its lease"
        victim.kill()
        began = loop.time()
        answer = await waiting
        assert answer.status_code == 200
        assert '"count":1' in answer.text
        assert loop.time() - began < (LEASE_S + 0.5) * slack
        with suppress(Exception):
            await holding


@pytest.mark.parametrize("store_url", FEWER_STORES, indirect=True)
@pytest.mark.parametrize(
    ("times", "keys"), [(1, 3), pytest.param(10, 10, marks=[pytest.mark.full, pytest.mark.timeout(300)])]
)
async def test_r4_a_server_that_was_asleep_beyond_its_lease_cannot_overwrite_what_happened_meanwhile(
    serve: Serve, store_url: str, times: int, keys: int
) -> None:
    env = settings_of(store_url, lease=LEASE_S)
    sleeper, other = await serve_many(serve, 2, env)
    async with new_client() as client:
        await visitor(client, sleeper.url)

        async def call(site: SiteServer, event: str, **data: float) -> list[httpx.Response]:
            names = [f"Item/{event}?record_id={key}" for key in range(keys)]
            return await asyncio.gather(*(post(client, site.url, name, **data) for name in names))

        for number in range(1, times + 1):
            holding = asyncio.create_task(call(sleeper, "hold", seconds=0.8))
            await asyncio.sleep(0.5)
            sleeper.process.send_signal(signal.SIGSTOP)
            try:
                answers = await call(other, "bump")
                # Whose lease it is now is not for the sleeper to end.
                next_ones = asyncio.create_task(call(other, "hold", seconds=0.8))
                await asyncio.sleep(0.3)
            finally:
                sleeper.process.send_signal(signal.SIGCONT)
            for answer in answers:
                assert f'"count":{2 * number - 1}' in answer.text
            for late in await holding:
                assert late.status_code == 409, late.text
                assert "try again" in late.text
            for answer in await next_ones:
                assert f'"count":{2 * number}' in answer.text, answer.text
