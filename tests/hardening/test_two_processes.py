"""What one tab does at several processes of a store: repeated clicks, resumed streams, many reconnects at once."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse

from faststate_asgi import Live, ReactiveState, StateConfig, StateScope, event
from faststate_asgi.testing import FastStateClient, Faults
from tests.apps.shared_clients import STORES, store_of
from tests.hardening.wrapping import wrapped

pytestmark = pytest.mark.anyio
EVERYBODY = StateConfig(scope=StateScope.GLOBAL)


class Counter(ReactiveState):
    """What everybody counts."""

    count: int = 0

    @event
    async def bump(self, wait_s: float = 0) -> None:
        """Add one, in a while."""
        await asyncio.sleep(wait_s)
        self.count += 1

    @event
    async def steps(self, wait_s: float) -> AsyncIterator[None]:
        """Add one at each of forty steps."""
        for _ in range(40):
            self.count += 1
            yield
            await asyncio.sleep(wait_s)


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a page that watches the counter."""
    await HTMLResponse(str(Live(await Counter.aget(scope))))(scope, receive, send)


class Pair:
    """Two processes on one store; `start` makes more."""

    def __init__(self, store: str, stack: AsyncExitStack) -> None:
        self._store, self._stack = store, stack
        self.faults: list[Faults] = []

    async def start(self) -> FastStateClient:
        """Start one more process."""
        app = wrapped((Counter, EVERYBODY), app=page, store=self._store, debug=True, resync_interval=0.5)
        self.faults.append(Faults(app))
        return await self._stack.enter_async_context(FastStateClient(app))


@pytest.fixture(params=STORES)
async def processes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """Processes on an empty store of each kind."""
    async with AsyncExitStack() as stack:
        yield Pair(store_of(request, tmp_path), stack)


async def both(processes: Pair) -> tuple[FastStateClient, FastStateClient]:
    """Return one browser at two processes."""
    here, there = await processes.start(), await processes.start()
    await here.call(Counter.bump)
    there.cookies = here.cookies
    return here, there


async def test_r24_a_repetition_waits_for_the_first_one_that_runs_in_another_process(processes: Pair) -> None:
    here, there = await both(processes)
    first = asyncio.create_task(here.call("Counter/bump", {"wait_s": 0.4}, key="one"))
    await asyncio.sleep(0.1)
    again = await there.call("Counter/bump", {"wait_s": 0.4}, key="one")
    assert (await first).body == again.body
    assert again.signals == {"count": 2}
    assert (await there.call(Counter.bump)).signals == {"count": 3}


async def test_r14_a_stream_resumes_at_another_process_with_nothing_if_nothing_was_missed(processes: Pair) -> None:
    here, there = await both(processes)
    async with here.stream("Counter") as stream:
        await stream.next()
        last_id = stream.last_id
    # At another process, and at one that was started meanwhile.
    for client in (there, await processes.start()):
        async with client.stream("Counter", last_event_id=last_id) as stream:
            await stream.next()
            assert stream.signals == {"_faststate": {"connected": True, "live": "Counter"}}
    await there.call(Counter.bump)
    for forged in (last_id, "0" * 16, "x", "\u00e4" * 300):
        async with here.stream("Counter", last_event_id=forged) as stream:
            await stream.until(lambda signals: signals["count"] == 2)
            assert len(stream.frames) == 1
    # A state that was deleted is another one than the one that was seen.
    async with here.stream("Counter") as stream:
        await stream.next()
        last_id = stream.last_id
    await processes.faults[0].engine.delete(Counter)
    async with there.stream("Counter", last_event_id=last_id) as stream:
        await stream.until(lambda signals: signals["count"] == 0)


async def test_r14_a_stream_does_not_go_back_at_a_process_that_has_not_heard_of_a_change(processes: Pair) -> None:
    here, there = await both(processes)
    faults = processes.faults[1]
    faults.messages(lost=1.0)
    async with here.stream("Counter") as stream, there.stream("Counter") as deaf:
        await asyncio.gather(stream.next(), deaf.next())
        for number in range(2, 12):
            await here.call(Counter.bump)
            await stream.until(lambda signals, number=number: signals["count"] == number)
            async with there.stream("Counter", last_event_id=stream.last_id) as again:
                await again.next()
                assert again.signals.get("count", number) == number
            async with there.stream("Counter", last_event_id=stream.last_id) as again:
                before = faults.calls["read"]
                await again.next()
                assert "count" not in again.signals, "nothing was missed"
                assert faults.calls["read"] - before <= 1, "only what lags behind is read, and versions are compared"


async def test_r15_a_stream_is_not_older_than_its_page_at_a_process_that_has_not_heard_of_a_change(
    processes: Pair,
) -> None:
    here, there = await both(processes)
    processes.faults[1].messages(lost=1.0)
    async with there.stream("Counter") as deaf:
        await deaf.next()
        for number in range(2, 12):
            await here.call(Counter.bump)
            seen = re.search(r'seen="([^"]*)"', (await here.get("/")).text)
            assert seen is not None
            async with there.stream("Counter", headers={"FastState-Seen": seen[1]}) as stream:
                await stream.next()
                assert stream.signals["count"] == number


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.full)])
async def test_r21_streams_that_all_reconnect_at_once_are_served_from_one_load(processes: Pair, count: int) -> None:
    here, _ = await both(processes)
    faults = processes.faults[0]
    streams = []
    async with AsyncExitStack() as stack:
        before = faults.calls["read"]
        visitors = [here.another() for _ in range(count)]
        streams = await asyncio.gather(*(stack.enter_async_context(visitor.stream("Counter")) for visitor in visitors))
        await asyncio.gather(*(stream.until(lambda signals: signals["count"] == 1) for stream in streams))
        reads = faults.calls["read"] - before
        assert reads <= 4, "one load, and the comparisons of versions meanwhile"


FULL = [pytest.mark.full, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("changes", "tabs"), [(1_000, 50), pytest.param(100_000, 50, marks=FULL), pytest.param(2_000, 1_000, marks=FULL)]
)
async def test_r12_r13_a_stalled_reader_among_many_costs_the_others_nothing(changes: int, tabs: int) -> None:
    app = wrapped((Counter, EVERYBODY), write_deadline=600)
    engine = app.faststate
    async with FastStateClient(app) as client, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(client.another().stream("Counter")) for _ in range(tabs)]
        stalled = streams[0]
        stalled.stall()

        def held() -> tuple[int, ...]:
            (mirror,) = engine.hub.watched
            return len(mirror.once), len(mirror.changed_at), len(asyncio.all_tasks())

        async with engine.transaction(Counter) as state:
            state.count += 1
        await streams[1].until(lambda signals: signals["count"] == 1)
        before, delivered = held(), engine.hub.deliveries
        for _ in range(changes):
            async with engine.transaction(Counter) as state:
                state.count += 1
        await asyncio.gather(*(one.until(lambda signals: signals["count"] == changes + 1) for one in streams[1:]))
        async with asyncio.timeout(20):
            while held() != before:  # whoever was behind has read all, but its writer may still be ending
                await asyncio.sleep(0.01)
        assert engine.hub.deliveries - delivered <= changes * (len(streams) - 1), "nothing is tried for the stalled one"
        stalled.resume()
        await stalled.until(lambda signals: signals["count"] == changes + 1)
        assert len(stalled.frames) <= 3, "the newest value, not the backlog"


async def test_a_generator_that_is_repeated_at_another_process_runs_once(processes: Pair) -> None:
    here, there = await both(processes)
    first = asyncio.create_task(here.call("Counter/steps", {"wait_s": 0.02}, key="gen"))
    await asyncio.sleep(0.15)
    again = await there.call("Counter/steps", {"wait_s": 0.02}, key="gen")
    assert (await first).signals == {"count": 41}
    assert again.signals == {"count": 41}
    assert (await there.call(Counter.bump)).signals == {"count": 42}
