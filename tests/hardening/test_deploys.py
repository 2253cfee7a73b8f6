"""Deploys under load: servers that are replaced, or that replace their workers, lose no click and no page."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.apps.herd import HerdTab, all_open, allow_files, herd, most_in_one_second
from tests.apps.shared_clients import APP, all_show, clickers, new_client, post, serve_many, settings_of, tabs_on
from tests.conftest import Serve

pytestmark = pytest.mark.anyio
FULL = [pytest.mark.full, pytest.mark.timeout(300)]


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


@pytest.mark.parametrize("seconds", [pytest.param(240, marks=FULL)])
async def test_r20_a_site_whose_workers_replace_themselves_is_there_all_the_time(
    serve: Serve, tmp_path: Path, slack: float, seconds: float
) -> None:
    env = settings_of(f"sqlite+aiosqlite:///{tmp_path}/shared.db", max_stream_age=5)
    recycling: Sequence[str] = ("--workers", "2", "--limit-max-requests", "300", "--limit-max-requests-jitter", "300")
    (site,) = await serve_many(serve, 1, env, *recycling)
    loop, times = asyncio.get_running_loop(), list[float]()
    async with clickers(2, lambda: [site.url]) as people, herd(site, 20, "Counter") as pages:
        end = loop.time() + seconds

        async def click(number: int) -> None:
            while (began := loop.time()) < end:
                await people[number].click("Counter/bump")
                times.append(loop.time() - began)
                await asyncio.sleep(max(0.0, 0.1 - times[-1]))

        await asyncio.gather(*(click(number) for number in range(len(people))))
        await all_equal(pages, len(times), 30)
    assert site.log.count("Maximum request limit") >= 4, "workers were replaced"
    late = sum(time for time in times if time > 1 * slack)
    assert late <= 0.001 * seconds * len(people), sorted(times)[-10:]


@pytest.mark.parametrize(("tabs", "clicks_per_s"), [pytest.param(500, 50, marks=FULL)])
async def test_r18_all_tabs_come_back_after_a_restart_and_no_click_is_lost(
    serve: Serve, tmp_path: Path, slack: float, tabs: int, clicks_per_s: int
) -> None:
    env = settings_of(f"sqlite+aiosqlite:///{tmp_path}/shared.db")
    allow_files(2 * tabs + 500)
    (site,) = await serve_many(serve, 1, env)
    loop, is_over, done = asyncio.get_running_loop(), asyncio.Event(), 0
    async with clickers(5, lambda: [site.url]) as people, herd(site, tabs, "Counter") as pages:

        async def click(number: int) -> None:
            nonlocal done
            while not is_over.is_set():
                next_at = loop.time() + len(people) / clicks_per_s
                await people[number].click("Counter/bump")
                done += 1
                await asyncio.sleep(max(0.0, next_at - loop.time()))

        clicking = [asyncio.create_task(click(number)) for number in range(len(people))]
        await asyncio.sleep(0.5)
        began = loop.time()
        site.terminate()
        await asyncio.to_thread(site.wait, 30)
        assert loop.time() - began < 12 * slack
        await asyncio.to_thread(serve, APP, env=env, port=site.port)
        await all_open(pages, 2, began + 15 * slack - loop.time())
        is_over.set()
        await asyncio.gather(*clicking)
        await people[0].click("Counter/bump")
        await all_equal(pages, done + 1, 5 * slack)


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_r21_two_thousand_tabs_that_are_cut_off_at_once_come_back_apart(
    serve: Serve, tmp_path: Path, slack: float
) -> None:
    env = settings_of(f"sqlite+aiosqlite:///{tmp_path}/shared.db")
    allow_files(4500)
    (site,) = await serve_many(serve, 1, env)
    async with new_client() as client, herd(site, 2000, "Counter") as pages:
        began = asyncio.get_running_loop().time()
        site.kill()
        await asyncio.to_thread(site.wait)
        again = await asyncio.to_thread(serve, APP, env=env, port=site.port)
        await all_open(pages, 2, began + 15 * slack - asyncio.get_running_loop().time())
        assert most_in_one_second([page.opened_at[1] for page in pages]) <= 400
        await post(client, again.url, "Counter/bump")
        await all_equal(pages, 1, 5 * slack)


async def all_equal(pages: Sequence[HerdTab], count: int, within_s: float) -> None:
    """Return when every tab shows the count."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while any(page.signals["Counter"]["count"] != count for page in pages):
                await asyncio.sleep(0.02)
            return
    raise AssertionError({page.signals["Counter"]["count"] for page in pages})
