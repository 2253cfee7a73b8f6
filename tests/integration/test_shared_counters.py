"""Several processes on one store are one site: sums are exact and every stream ends with the final value."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.apps.shared_clients import (
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
CLIENTS = 8


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    return store_of(request, tmp_path)


async def bump_everything(sites: Sequence[SiteServer], bumps: int, streams: int) -> None:
    """Bump one shared and eight own counters in turn over all servers, and check all sums."""
    urls = [site.url for site in sites]
    async with clickers(CLIENTS, lambda: urls) as people, tabs_on(sites, streams, "Counter") as tabs:

        async def work(number: int) -> None:
            for _ in range(bumps // CLIENTS // 2):
                await people[number].click("Counter/bump")
                await people[number].click("Own/bump")

        await asyncio.gather(*(work(number) for number in range(CLIENTS)))
        final = bumps // CLIENTS // 2 * CLIENTS
        await all_show(tabs, "Counter.count", final)
        for person in people:
            for url in urls:
                assert (await person.client.get(url + "/")).text.split()[1] == str(final // CLIENTS)
        assert [text for person in people for text in person.refusals] == []


@pytest.mark.parametrize(
    ("servers", "bumps", "streams"),
    [(2, 400, 12), pytest.param(8, 4000, 40, marks=[pytest.mark.full, pytest.mark.timeout(600)])],
)
async def test_r28_servers_on_one_store_count_exactly_and_every_stream_shows_it(
    serve: Serve, store_url: str, servers: int, bumps: int, streams: int
) -> None:
    sites = await serve_many(serve, servers, settings_of(store_url))
    await bump_everything(sites, bumps, streams)


@pytest.mark.parametrize(
    ("bumps", "streams"), [(400, 12), pytest.param(4000, 40, marks=[pytest.mark.full, pytest.mark.timeout(600)])]
)
async def test_four_workers_on_one_sqlite_file_count_exactly_and_every_stream_shows_it(
    serve: Serve, tmp_path: Path, bumps: int, streams: int
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/shared.db"
    (site,) = await serve_many(serve, 1, settings_of(url), "--workers", "4")
    async with new_client() as client:
        pids = set()
        for _ in range(40):
            async with new_client() as fresh:
                pids.add((await fresh.get(site.url + "/")).text.split()[0])
        assert len(pids) > 1, "the visits were spread over workers"
        await visitor(client, site.url)
    await bump_everything([site], bumps, streams)


async def test_servers_that_start_at_once_on_an_empty_store_all_work(serve: Serve, store_url: str) -> None:
    env = settings_of(store_url)
    groups = await asyncio.gather(*(serve_many(serve, 1, env) for _ in range(3)))
    sites = [site for group in groups for site in group]
    async with new_client() as client:
        for number, site in enumerate(sites, 1):
            answer = await post(client, site.url, "Counter/bump")
            assert f'"count":{number}' in answer.text


async def test_one_click_that_reaches_two_servers_at_once_runs_once(serve: Serve, store_url: str) -> None:
    sites = await serve_many(serve, 2, settings_of(store_url))
    async with new_client() as client:
        await visitor(client, sites[0].url)
        for number in range(1, 11):
            answers = await asyncio.gather(
                *(post(client, site.url, "Counter/bump", f"click-{number}") for site in sites)
            )
            assert [answer.status_code for answer in answers] == [200, 200]
            assert len({answer.text for answer in answers}) == 1
        final = await post(client, sites[1].url, "Counter/bump", "the-last")
        assert '"count":11' in final.text


@pytest.mark.parametrize("store_url", FEWER_STORES, indirect=True)
@pytest.mark.parametrize("seconds", [2.5, pytest.param(10, marks=pytest.mark.full)])
async def test_an_event_that_holds_its_turn_beyond_the_lease_commits_and_delays_no_other_key(
    serve: Serve, store_url: str, slack: float, seconds: float
) -> None:
    sites = await serve_many(serve, 2, settings_of(store_url, lease=0.8))
    loop = asyncio.get_running_loop()
    async with new_client() as holder, new_client() as other:
        await visitor(other, sites[0].url)
        holding = asyncio.create_task(post(holder, sites[0].url, "Counter/hold", seconds=seconds))
        slowest_s = 0.0
        count = 0
        while not holding.done():
            for site in sites:
                began = loop.time()
                for name in ("Own/bump", "Item/bump?record_id=7"):
                    answer = await post(other, site.url, name)
                    assert answer.status_code == 200, answer.text
                slowest_s = max(slowest_s, loop.time() - began)
                count += 1
        answer = await holding
        assert answer.status_code == 200
        assert '"count":1' in answer.text
        assert count > 0
        assert slowest_s < 1 * slack


@pytest.mark.parametrize("times", [20, pytest.param(500, marks=[pytest.mark.full, pytest.mark.timeout(300)])])
async def test_what_two_servers_move_between_two_states_is_neither_lost_nor_made_nor_stuck(
    serve: Serve, store_url: str, times: int
) -> None:
    sites = await serve_many(serve, 2, settings_of(store_url))
    async with new_client() as client:
        for _ in range(3):  # the two states have different pasts
            await post(client, sites[0].url, "Item/bump?record_id=1")

        async def move(number: int) -> None:
            for turn in range(times):
                source, target = (1, 2) if (number + turn) % 2 else (2, 1)
                url = f"{sites[number % 2].url}/move?source={source}&target={target}"
                answer = await client.post(url)
                assert answer.status_code == 200, answer.text

        await asyncio.gather(*(move(number) for number in range(4)))
        sums = [(await client.get(f"{site.url}/sum?first=1&second=2")).text for site in sites]
        assert sums == ["3", "3"]


async def write_until(site: SiteServer, end_s: float) -> int:
    """Send one event after the other over one connection, and return how many were taken."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    head = (
        f"POST /faststate/events/Counter/bump HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Length: 2\r\n\r\n{{}}"
    )
    count = 0
    while loop.time() < end_s:
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert length is not None
        await reader.readexactly(int(length[1]))
        count += 1
    writer.close()
    return count


@pytest.mark.parametrize("store_url", FEWER_STORES, indirect=True)
@pytest.mark.parametrize(
    ("servers", "seconds"), [(1, 3), *(pytest.param(n, 10, marks=pytest.mark.full) for n in (1, 2))]
)
async def test_r32_those_who_write_to_one_key_all_the_time_are_served_in_turn(
    serve: Serve, store_url: str, servers: int, seconds: float
) -> None:
    sites = await serve_many(serve, servers, settings_of(store_url))
    end_s = asyncio.get_running_loop().time() + seconds
    counts = await asyncio.gather(*(write_until(sites[number % servers], end_s) for number in range(32)))
    async with new_client() as client:
        answer = await post(client, sites[0].url, "Counter/bump")
    assert f'"count":{sum(counts) + 1}' in answer.text
    assert max(counts) <= 3 * min(counts), sorted(counts)
