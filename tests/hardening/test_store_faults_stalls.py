"""Stores and servers that stand still for a while: nobody waits without bound, and all is right soon after."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from tests.apps.shared_clients import Tab, all_show, new_client, post, serve_many, settings_of, tabs_on, visitor
from tests.conftest import Serve
from tests.services import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
FULL = [pytest.mark.full, pytest.mark.timeout(300)]
NOISE = "x" * 65_536
LIMIT = 32 << 20
StartRedis = Callable[..., RedisServer]


def subscribers(redis: RedisServer) -> int:
    """Return how many connections listen to messages."""
    return redis.command("CLIENT", "LIST", "TYPE", "pubsub").count(b"id=")


def flood(redis: RedisServer) -> None:
    """Send more than Redis keeps for a listener that does not read; what is sent means nothing."""
    for _ in range(LIMIT // len(NOISE) + 200):
        redis.command("PUBLISH", "fs:control", NOISE)


@pytest.mark.parametrize("asleep_s", [0.5, pytest.param(10, marks=FULL)])
async def test_r8_a_server_that_redis_dropped_while_it_was_asleep_is_right_again_at_once(
    serve: Serve, start_redis: StartRedis, slack: float, asleep_s: float
) -> None:
    redis = start_redis()
    # Only the new connection can tell that something was missed: the next comparison of versions is far away.
    sleeper, other = await serve_many(serve, 2, settings_of(redis.url, resync_interval=600))
    async with new_client() as client, tabs_on([sleeper], 6, "Counter") as tabs:
        await visitor(client, other.url)
        await post(client, other.url, "Counter/bump")
        await all_show(tabs, "Counter.count", 1)
        assert subscribers(redis) == 2
        sleeper.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.to_thread(flood, redis)
            await asyncio.sleep(asleep_s)
            assert subscribers(redis) == 1, "Redis has dropped the one that does not read"
            for _ in range(3):
                await post(client, other.url, "Counter/bump")
        finally:
            sleeper.process.send_signal(signal.SIGCONT)
        await all_show(tabs, "Counter.count", 4, 2 * slack)
        await post(client, other.url, "Counter/bump")
        await all_show(tabs, "Counter.count", 5, 2 * slack)
        assert [tab.opened for tab in tabs] == [1] * len(tabs)


@pytest.mark.parametrize(("pause_s", "timeout_s"), [(2.5, 0.5), pytest.param(10, 2, marks=FULL)])
async def test_r11_events_end_and_the_loop_runs_on_while_redis_answers_nobody(
    serve: Serve, start_redis: StartRedis, slack: float, pause_s: float, timeout_s: float
) -> None:
    redis = start_redis()
    (site,) = await serve_many(serve, 1, settings_of(redis.url, store_timeout=timeout_s))
    loop = asyncio.get_running_loop()
    slowest_s, statuses = 0.0, list[int]()
    async with new_client() as client, Tab(site.url, "Counter") as tab:
        await visitor(client, site.url)
        await tab.shows("Counter.count", 0)
        end = loop.time() + pause_s
        redis.command("CLIENT", "PAUSE", str(round(pause_s * 1000)), "ALL")
        lag = asyncio.create_task(client.get(f"{site.url}/lag?seconds={pause_s}"))

        async def click(event: str) -> None:
            nonlocal slowest_s
            while (began := loop.time()) < end - timeout_s:
                answer = await post(client, site.url, event)
                if loop.time() < end:
                    statuses.append(answer.status_code)
                slowest_s = max(slowest_s, loop.time() - began)

        names = ["Counter/bump", "Own/bump", *(f"Item/bump?record_id={number}" for number in range(18))]
        await asyncio.gather(*(click(name) for name in names))
        assert slowest_s < (timeout_s + 0.5) * slack
        assert set(statuses) == {503}
        assert len(statuses) >= len(names)
        assert float((await lag).text) < 0.05 * slack
        async with asyncio.timeout(10 * slack):
            while (answer := await post(client, site.url, "Counter/bump")).status_code != 200:
                await asyncio.sleep(0.1)
        await tab.shows("Counter.count", int(answer.text.partition('"count":')[2].partition("}")[0]))
