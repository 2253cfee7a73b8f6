"""Deploys under load: servers that are replaced, or that replace their workers, lose no click and no page."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.apps.shared_clients import APP, all_show, clickers, serve_many, settings_of, tabs_on
from tests.conftest import Serve

pytestmark = pytest.mark.anyio


@pytest.mark.redis
@pytest.mark.parametrize(
    ("rounds", "tabs"), [(2, 10), pytest.param(20, 100, marks=[pytest.mark.full, pytest.mark.timeout(900)])]
)
async def test_r18_a_rolling_restart_of_two_servers_under_load_loses_nothing(
    serve: Serve, redis_url: str, rounds: int, tabs: int
) -> None:
    env = settings_of(redis_url, drain_timeout=5, lease=2)
    sites = await serve_many(serve, 2, env)
    urls = [site.url for site in sites]
    is_over = asyncio.Event()
    done = 0

    async with clickers(4, lambda: urls) as people, tabs_on(sites, tabs, "Counter") as pages:

        async def click(number: int) -> None:
            nonlocal done
            while not is_over.is_set():
                await people[number].click("Counter/bump")
                done += 1
                await asyncio.sleep(0.02)

        clicking = [asyncio.create_task(click(number)) for number in range(4)]
        for turn in range(rounds):
            old = sites[turn % 2]
            before = done
            old.terminate()
            await asyncio.to_thread(old.wait, 30)
            sites[turn % 2] = await asyncio.to_thread(serve, APP, env=env, port=old.port)
            while done < before + 20:
                await asyncio.sleep(0.02)  # the load goes on between two restarts
        is_over.set()
        await asyncio.gather(*clicking)
        await all_show(pages, "Counter.count", done)
        assert max(person.slowest_s for person in people) < 30


@pytest.mark.parametrize("clicks", [150, pytest.param(3000, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
async def test_r20_workers_that_replace_themselves_lose_no_click_and_no_page(
    serve: Serve, tmp_path: Path, clicks: int
) -> None:
    env = settings_of(f"sqlite+aiosqlite:///{tmp_path}/shared.db", max_stream_age=2, drain_timeout=1, lease=2)
    recycling: Sequence[str] = ("--workers", "2", "--limit-max-requests", "40", "--timeout-graceful-shutdown", "3")
    (site,) = await serve_many(serve, 1, env, *recycling)
    async with clickers(3, lambda: [site.url]) as people, tabs_on([site], 6, "Counter") as pages:

        async def click(number: int) -> None:
            for _ in range(clicks // 3):
                await people[number].click("Counter/bump")

        await asyncio.gather(*(click(number) for number in range(3)))
        await all_show(pages, "Counter.count", clicks // 3 * 3, within_s=60)
    assert site.log.count("Maximum request limit") >= 1, "workers were replaced"
