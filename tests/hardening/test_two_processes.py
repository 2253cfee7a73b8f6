"""What one tab does at several processes of a store: repeated clicks, resumed streams, many reconnects at once."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse

from faststate_asgi import Live, ReactiveState, RequestContext, StateConfig, StateScope, Writable, event
from faststate_asgi.testing import FastStateClient, Faults
from faststate_asgi.testing.client import Answer
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


class Visit(ReactiveState):
    """What each visitor has; handlers count outside of it how often they ran."""

    count: int = 0

    @event
    async def bump(self, wait_s: float = 0) -> None:
        """Add one, in a while."""
        RAN.append("bump")
        await asyncio.sleep(wait_s)
        self.count += 1

    @event
    async def both(self, wait_s: float = 0, *, counter: Writable[Counter]) -> None:
        """Add one to what everybody counts, too."""
        await self.bump(wait_s)
        counter.count += 1

    @event
    async def steps(self, wait_s: float = 0) -> AsyncIterator[None]:
        """Add one at each of two steps."""
        for _ in range(2):
            await self.bump(wait_s)
            yield

    @event
    async def enter(self, context: RequestContext, wait_s: float = 0) -> None:
        """Log in."""
        await context.login("ann")
        await self.bump(wait_s)

    @event(requires_auth=True)
    async def leave(self, context: RequestContext, wait_s: float = 0) -> str:
        """Log out."""
        await context.logout()
        await self.bump(wait_s)
        return "gone"

    @event(requires_auth=True)
    async def leave_in_steps(self, context: RequestContext, wait_s: float = 0) -> AsyncIterator[str]:
        """Log out, and say so in two steps."""
        await context.logout()
        for text in ("going", "gone"):
            await self.bump(wait_s)
            yield text


RAN: list[str] = []
FIRST_CLICKS = ["bump", "both", "steps"]
CHANGES_OF_COOKIES = ["enter", "leave", "leave_in_steps"]


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
        app = wrapped((Counter, EVERYBODY), Visit, app=page, store=self._store, debug=True, resync_interval=0.5)
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

        for count in (1, 2):  # the first makes the writer of the stalled one, the second what stands by for others
            async with engine.transaction(Counter) as state:
                state.count += 1
            await streams[1].until(lambda signals, count=count: signals["count"] == count)
        before, delivered = held(), engine.hub.deliveries
        for _ in range(changes):
            async with engine.transaction(Counter) as state:
                state.count += 1
        await asyncio.gather(*(one.until(lambda signals: signals["count"] == changes + 2) for one in streams[1:]))
        async with asyncio.timeout(20):
            while held() != before:  # whoever was behind has read all, but its writer may still be ending
                await asyncio.sleep(0.01)
        assert engine.hub.deliveries - delivered <= changes * (len(streams) - 1), "nothing is tried for the stalled one"
        stalled.resume()
        await stalled.until(lambda signals: signals["count"] == changes + 2)
        assert len(stalled.frames) <= 3, "the newest value, not the backlog"


async def test_a_generator_that_is_repeated_at_another_process_runs_once(processes: Pair) -> None:
    here, there = await both(processes)
    first = asyncio.create_task(here.call("Counter/steps", {"wait_s": 0.02}, key="gen"))
    await asyncio.sleep(0.15)
    again = await there.call("Counter/steps", {"wait_s": 0.02}, key="gen")
    assert (await first).signals == {"count": 41}
    assert again.signals == {"count": 41}
    assert (await there.call(Counter.bump)).signals == {"count": 42}


async def repeated(name: str, clients: list[FastStateClient], body: dict[str, float], pause_s: float) -> list[Answer]:
    """Send one click from each client, and return the answers."""
    RAN.clear()
    requests: list[asyncio.Task[Answer]] = []
    for client in clients:
        requests.append(asyncio.create_task(client.call(f"Visit/{name}", body, key="click", datastar=False)))
        await asyncio.sleep(pause_s)
    return await asyncio.gather(*requests)


@pytest.mark.parametrize("pause_s", [0, 0.15])
@pytest.mark.parametrize("name", FIRST_CLICKS)
async def test_a_first_click_that_reaches_two_processes_runs_once_and_makes_one_session(
    processes: Pair, name: str, pause_s: float
) -> None:
    here, there = await processes.start(), await processes.start()
    answers = await repeated(name, [here, there, here.another()], {"wait_s": 0.3}, pause_s)
    assert len(RAN) == (2 if name == "steps" else 1)
    assert len({(answer.status, answer.text, answer.headers["set-cookie"]) for answer in answers}) == 1
    assert (await there.call("Visit/bump")).signals == {"count": 3 if name == "steps" else 2}


@pytest.mark.parametrize("name", CHANGES_OF_COOKIES)
async def test_a_login_or_logout_that_is_repeated_with_the_old_cookie_while_it_runs_runs_once(
    processes: Pair, name: str
) -> None:
    here, there = await processes.start(), await processes.start()
    await here.call("Visit/bump")
    if name != "enter":
        await here.call("Visit/enter")
    cookies = dict(here.cookies)
    browsers, late = [here, there, here.another()], [here.another(), there.another()]
    for browser in (*browsers, *late):
        browser.cookies = dict(cookies)
    answers = await repeated(name, browsers, {"wait_s": 0.3}, 0.15)
    ran = list(RAN)
    answers += await repeated(name, late, {"wait_s": 0.3}, 0)
    assert (ran, RAN) == (["bump"] * (2 if name == "leave_in_steps" else 1), [])
    assert len({(answer.status, answer.text) for answer in answers}) == 1
    assert answers[0].status == 200
    there.cookies = cookies
    assert [answer.status for answer in await repeated(name, [there], {"wait_s": 0.2}, 0)] == [422]


async def test_a_process_that_dies_at_a_first_click_holds_its_repetition_up_for_one_lease_only(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/shared.db"
    dead, alive = (wrapped(Visit, store=url, debug=True, lease=0.5) for _ in range(2))
    async with dead.faststate, FastStateClient(alive) as client:
        dead.faststate.runtime.turns.hold = lambda lease, store: None  # type: ignore[method-assign]  # nobody renews it
        await dead.faststate.new_claim(":Visit/bump:click").take()
        async with asyncio.timeout(5):
            assert (await client.call("Visit/bump", key="click")).signals == {"count": 1}
