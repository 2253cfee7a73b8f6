"""Servers that die in the middle of their work: no click is lost, none runs twice, nobody waits longer than a lease."""

import asyncio
import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.apps.shared_clients import (
    APP,
    FEWER_STORES,
    STORES,
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
        self.kills = 0

    def urls(self) -> list[str]:
        return [site.url for site in self.sites]

    async def kill_one(self) -> None:
        """Kill a server as a power cut would, and start another one at its address."""
        number = random.randrange(len(self.sites))
        victim = self.sites[number]
        victim.kill()
        await asyncio.to_thread(victim.wait)
        self.kills += 1
        self.sites[number] = await asyncio.to_thread(self._start, victim.port)

    def _start(self, port: int) -> SiteServer:
        return self.serve(APP, env=self.env, port=port)


@pytest.mark.parametrize(
    ("kills", "tabs"), [(2, 6), pytest.param(20, 20, marks=[pytest.mark.full, pytest.mark.timeout(600)])]
)
async def test_every_click_counts_once_while_servers_are_killed(
    serve: Serve, store_url: str, kills: int, tabs: int, slack: float
) -> None:
    env = settings_of(store_url, lease=LEASE_S, resync_interval=1)
    fleet = Fleet(serve, env, await serve_many(serve, 3, env))
    is_over = asyncio.Event()
    async with clickers(8, fleet.urls) as people, tabs_on(fleet.sites, tabs, "Counter") as pages:
        acknowledged = [0] * len(people)

        async def work(number: int) -> None:
            while not is_over.is_set():
                await people[number].click("Counter/bump")
                acknowledged[number] += 1

        working = [asyncio.create_task(work(number)) for number in range(len(people))]
        try:
            for _ in range(kills):
                await asyncio.sleep(random.uniform(0.3, 0.8))
                await fleet.kill_one()
            await asyncio.sleep(0.3)
        finally:
            is_over.set()
        await asyncio.gather(*working)
        assert sum(person.repeats for person in people) > 0
        final = sum(acknowledged)
        async with new_client() as client:
            shown = await post(client, fleet.urls()[0], "Counter/bump")
        assert f'"count":{final + 1}' in shown.text, (final, shown.text)
        await all_show(pages, "Counter.count", final + 1)
        assert max(person.slowest_s for person in people) < (2 * LEASE_S + 3) * slack


@pytest.mark.parametrize("store_url", FEWER_STORES, indirect=True)
async def test_the_turn_of_a_killed_server_is_free_when_its_lease_is_over(
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
@pytest.mark.parametrize("times", [1, pytest.param(20, marks=[pytest.mark.full, pytest.mark.timeout(300)])])
async def test_a_server_that_was_asleep_beyond_its_lease_cannot_overwrite_what_happened_meanwhile(
    serve: Serve, store_url: str, times: int
) -> None:
    env = settings_of(store_url, lease=LEASE_S)
    sleeper, other = await serve_many(serve, 2, env)
    async with new_client() as client:
        await visitor(client, sleeper.url)
        for number in range(1, times + 1):
            holding = asyncio.create_task(post(client, sleeper.url, "Counter/hold", seconds=0.6))
            await asyncio.sleep(0.3)
            sleeper.process.send_signal(signal.SIGSTOP)
            try:
                answer = await post(client, other.url, "Counter/bump")
            finally:
                sleeper.process.send_signal(signal.SIGCONT)
            assert f'"count":{number}' in answer.text
            late = await holding
            assert late.status_code == 409, late.text
            assert "try again" in late.text
