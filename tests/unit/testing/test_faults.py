"""The fault kit breaks what it was told to break, as often as it was told, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from faststate_asgi import ReactiveState, StateConfig, StateScope, event
from faststate_asgi.errors import ConfigurationError
from faststate_asgi.testing import FastStateClient, Faults
from faststate_asgi.testing.faults import METHODS
from tests.hardening.wrapping import wrapped

pytestmark = pytest.mark.anyio


class Counter(ReactiveState):
    """What everybody counts."""

    count: int = 0

    @event
    async def bump(self) -> None:
        """Add one."""
        self.count += 1


EVERYBODY = StateConfig(scope=StateScope.GLOBAL, ttl=100)


@pytest.fixture(params=["memory", "sqlite"])
async def broken(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[FastStateClient, Faults]]:
    """A client and the faults of its app."""
    store = "memory:" if request.param == "memory" else f"sqlite+aiosqlite:///{tmp_path}/one.db"
    app = wrapped((Counter, EVERYBODY), store=store, debug=True)
    faults = Faults(app)
    async with FastStateClient(app) as client:
        await client.get("/")
        yield client, faults


async def statuses(client: FastStateClient, count: int) -> list[int]:
    """Return the statuses of so many clicks."""
    return [(await client.call(Counter.bump, datastar=False)).status for _ in range(count)]


async def test_without_orders_everything_works_and_is_counted(broken: tuple[FastStateClient, Faults]) -> None:
    client, faults = broken
    assert await statuses(client, 3) == [200] * 3
    assert faults.calls["commit"] == faults.calls["acquire"] == 3


@pytest.mark.parametrize("method", ["acquire", "commit"])
async def test_a_call_fails_as_often_as_it_was_told(broken: tuple[FastStateClient, Faults], method: str) -> None:
    client, faults = broken
    faults.fail(method, 2)
    assert await statuses(client, 4) == [503, 503, 200, 200]
    assert (await client.call(Counter.bump)).signals == {"count": 3}


async def test_a_reply_that_is_lost_was_carried_out(broken: tuple[FastStateClient, Faults]) -> None:
    client, faults = broken
    faults.fail("commit", after=True)
    assert await statuses(client, 2) == [503, 200]
    assert (await client.call(Counter.bump)).signals == {"count": 3}


async def test_pages_show_a_commit_whose_reply_is_lost(broken: tuple[FastStateClient, Faults]) -> None:
    client, faults = broken
    async with client.stream("Counter") as stream:
        await stream.next()
        faults.fail("commit", after=True)
        assert await statuses(client, 1) == [503]
        await stream.until(lambda signals: signals["count"] == 1)


async def test_a_slow_call_is_late_and_a_store_that_is_down_is_back_after_clear(
    broken: tuple[FastStateClient, Faults],
) -> None:
    client, faults = broken
    faults.slow("acquire", 0.2)
    began = asyncio.get_running_loop().time()
    assert await statuses(client, 1) == [200]
    assert asyncio.get_running_loop().time() - began >= 0.2
    faults.down()
    assert await statuses(client, 2) == [503, 503]
    assert (await client.get("/faststate/health")).status == 503
    faults.clear()
    assert await statuses(client, 1) == [200]


async def test_a_cut_stream_ends_and_a_stalled_one_takes_nothing(broken: tuple[FastStateClient, Faults]) -> None:
    client, faults = broken
    async with client.stream("Counter") as cut, client.stream("Counter") as stalled:
        await cut.next()
        await stalled.next()
        stalled.stall()
        for _ in range(50):
            await client.call(Counter.bump)
        await cut.until(lambda signals: signals["count"] == 50)
        with pytest.raises(TimeoutError):
            await stalled.next(0.2)
        stalled.resume()
        await stalled.until(lambda signals: signals["count"] == 50)
        assert len(stalled.frames) <= 4, "the newest values, not the backlog"
        assert faults.cut_streams() == 2
        await cut.until_end()
        assert cut.signals["_faststate"]["connected"] is True, "nobody said goodbye"


async def test_the_clock_of_memory_moves_and_no_other(broken: tuple[FastStateClient, Faults]) -> None:
    client, faults = broken
    await client.call(Counter.bump)
    if faults.engine.records.is_shared:
        with pytest.raises(ConfigurationError, match="only the clock of the memory store"):
            faults.move_clock(60)
        return
    faults.move_clock(99)
    assert (await client.call(Counter.bump)).signals == {"count": 2}
    faults.move_clock(101)
    assert (await client.call(Counter.bump)).signals == {"count": 1}


async def test_messages_are_lost_late_and_repeated(tmp_path: Path) -> None:
    store = f"sqlite+aiosqlite:///{tmp_path}/shared.db"
    async with AsyncExitStack() as stack:
        apps = [wrapped((Counter, EVERYBODY), store=store, debug=True, resync_interval=0.4) for _ in range(2)]
        faults = Faults(apps[1], seed=1)
        here, there = [await stack.enter_async_context(FastStateClient(app)) for app in apps]
        stream = await stack.enter_async_context(there.stream("Counter"))
        await stream.next()
        faults.messages(lost=1)
        await here.call(Counter.bump)
        await stream.until(lambda signals: signals["count"] == 1)  # by the comparison of versions
        assert faults.lost >= 1
        faults.messages(repeated=1, delay=0.05)
        for _ in range(20):
            await here.call(Counter.bump)
        await stream.until(lambda signals: signals["count"] == 21)
        faults.clear()
        faults.lose_connection()
        await here.call(Counter.bump)
        await stream.until(lambda signals: signals["count"] == 22)
        counts = [frame.patch["count"] for frame in stream.frames if frame.patch and "count" in frame.patch]
        assert counts == sorted(set(counts)), "no older value after a newer one, none twice"


async def test_orders_that_mean_nothing_are_refused() -> None:
    app = wrapped((Counter, EVERYBODY))
    faults = Faults(app)
    with pytest.raises(ConfigurationError, match="has no call 'comit'"):
        faults.fail("comit")
    assert "commit" in METHODS
    async with FastStateClient(app):
        with pytest.raises(ConfigurationError, match="is open"):
            Faults(app)
