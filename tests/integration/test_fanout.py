"""One change to a thousand open streams: no task for each delivery, nobody waits for a slow reader, all end up right."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from faststate_asgi import ReactiveState, event
from faststate_asgi.testing import FastStateClient
from faststate_asgi.testing.sse import FrameReader, apply
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
STREAMS = 1000


class Ticker(ReactiveState):
    """Changes."""

    count: int = 0
    text: str = ""

    @event(inline=True)
    def tick(self) -> None:
        self.count += 1

    @event(inline=True)
    def write(self, text: str) -> None:
        self.text = text


class Tab:
    """One open stream that is driven by hand, so that its reader can be as slow as a test wants."""

    def __init__(self, app: Any) -> None:
        self.signals: dict[str, Any] = {}
        self.bodies: list[bytes] = []
        self.gate: asyncio.Event | None = None
        self.is_open = asyncio.Event()
        self.gone = asyncio.Event()
        self._reader = FrameReader()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/faststate/sse",
            "query_string": b"states=Ticker",
            "headers": [],
        }
        self.task = asyncio.get_running_loop().create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] != "http.response.body":
            return
        if self.gate is not None:
            await self.gate.wait()
        self.bodies.append(message["body"])
        for frame in self._reader.feed(message["body"]):
            apply(self.signals, frame)
        self.is_open.set()

    async def leave(self) -> None:
        self.gone.set()
        with suppress(asyncio.CancelledError):
            await self.task


class Tabs:
    """Many tabs of one app; closed together."""

    def __init__(self, app: Any, count: int) -> None:
        self._tabs = [Tab(app) for _ in range(count)]

    async def __aenter__(self) -> list[Tab]:
        await asyncio.gather(*(tab.is_open.wait() for tab in self._tabs))
        return self._tabs

    async def __aexit__(self, *exc: object) -> None:
        for tab in self._tabs:
            if tab.gate is not None:
                tab.gate.set()
        await asyncio.gather(*(tab.leave() for tab in self._tabs))


def count_tasks() -> list[str]:
    """Record the name of every coroutine that becomes a task from now on."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(getattr(coroutine, "__qualname__", repr(coroutine)))
        return asyncio.Task(coroutine, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)
    return made


async def reached(tabs: list[Tab], count: int) -> None:
    """Wait until every one of these tabs shows the value."""
    async with asyncio.timeout(20):
        while any(tab.signals.get("count") != count for tab in tabs):
            await asyncio.sleep(0)


async def test_a_broadcast_to_a_thousand_streams_makes_no_task_for_each() -> None:
    app = wrapped((Ticker, GLOBAL))
    async with FastStateClient(app) as client, Tabs(app, STREAMS) as tabs:
        made = count_tasks()
        try:
            await client.call("Ticker/tick")
            await reached(tabs, 1)
        finally:
            asyncio.get_running_loop().set_task_factory(None)
        assert len(made) < 20, made[:30]
        assert app.faststate.hub.deliveries == STREAMS


async def test_every_stream_gets_the_last_value_of_a_burst() -> None:
    app = wrapped((Ticker, GLOBAL))
    async with FastStateClient(app) as client, Tabs(app, STREAMS) as tabs:
        await asyncio.gather(*(client.call("Ticker/tick") for _ in range(20)))
        await reached(tabs, 20)
        for tab in tabs:
            frames = [f for body in tab.bodies for f in FrameReader().feed(body)]
            counts = [f.patch["count"] for f in frames if f.patch and "count" in f.patch]
            assert counts == sorted(counts)


async def test_all_streams_in_step_get_the_same_bytes() -> None:
    app = wrapped((Ticker, GLOBAL))
    async with FastStateClient(app) as client, Tabs(app, 100) as tabs:
        await client.call("Ticker/tick")
        await reached(tabs, 1)
        assert len({id(tab.bodies[-1]) for tab in tabs}) <= 2 + 100 // 50


async def test_the_loop_gets_its_turn_during_a_broadcast() -> None:
    app = wrapped((Ticker, GLOBAL))
    async with FastStateClient(app) as client, Tabs(app, STREAMS) as tabs:
        turns = 0
        call = asyncio.create_task(client.call("Ticker/tick"))
        while any(tab.signals.get("count") != 1 for tab in tabs):
            await asyncio.sleep(0)
            turns += 1
        await call
        assert turns >= STREAMS // 100


async def test_a_reader_that_stands_still_stops_nobody_and_gets_the_newest_value_later() -> None:
    app = wrapped((Ticker, GLOBAL))
    async with FastStateClient(app) as client, Tabs(app, 50) as tabs:
        slow, *others = tabs
        slow.gate = asyncio.Event()
        for _ in range(200):
            await client.call("Ticker/tick")
        await reached(others, 200)
        assert slow.signals["count"] == 0
        seen = len(slow.bodies)
        slow.gate.set()
        await reached([slow], 200)
        assert len(slow.bodies) - seen <= 3
        await client.call("Ticker/tick")
        await reached(tabs, 201)


async def test_what_waits_for_a_slow_reader_does_not_grow() -> None:
    """Who reads slowly while others change much would fill the server's memory."""
    app = wrapped((Ticker, GLOBAL))
    async with FastStateClient(app) as client, Tabs(app, 2) as tabs:
        slow, other = tabs
        slow.gate = asyncio.Event()
        await client.call("Ticker/tick")
        for number in range(50):
            await client.call("Ticker/write", {"text": f"{number:06}" * 5000})
        seen = len(slow.bodies)
        slow.gate.set()
        await reached([other], 1)
        async with asyncio.timeout(5):
            while slow.signals.get("text") != other.signals["text"] or not other.signals["text"]:
                await asyncio.sleep(0)
        assert sum(map(len, slow.bodies[seen:])) < 3 * 31_000


async def test_a_reader_beyond_the_write_deadline_is_cut_off() -> None:
    app = wrapped((Ticker, GLOBAL), write_deadline=0.2)
    async with FastStateClient(app) as client, Tabs(app, 2) as tabs:
        slow, other = tabs
        slow.gate = asyncio.Event()
        await client.call("Ticker/tick")
        await asyncio.wait({slow.task}, timeout=3)
        assert slow.task.done()
        assert app.faststate.hub.stream_count == 1
        await client.call("Ticker/tick")
        await reached([other], 2)


async def test_a_reader_that_never_takes_the_first_bytes_is_cut_off() -> None:
    app = wrapped((Ticker, GLOBAL), write_deadline=0.2)
    async with FastStateClient(app):
        tab = Tab(app)
        tab.gate = asyncio.Event()
        await asyncio.wait({tab.task}, timeout=3)
        assert tab.task.done()
        assert app.faststate.hub.stream_count == 0
        with suppress(asyncio.CancelledError):
            await tab.task


async def test_a_connection_that_breaks_while_it_is_written_to_stops_nobody() -> None:
    app = wrapped((Ticker, GLOBAL))
    async with FastStateClient(app) as client, Tabs(app, 10) as tabs:

        class Broken(asyncio.Event):
            """Fails where others wait."""

            async def wait(self) -> Any:
                raise OSError("broken pipe")

        tabs[3].gate = Broken()
        await client.call("Ticker/tick")
        await reached(tabs[:3] + tabs[4:], 1)


async def test_streams_may_come_and_go_during_a_broadcast() -> None:
    app = wrapped((Ticker, GLOBAL))
    async with FastStateClient(app) as client, Tabs(app, 200) as tabs:
        call = asyncio.create_task(client.call("Ticker/tick"))
        leaving = [asyncio.create_task(tab.leave()) for tab in tabs[::2]]
        late = Tabs(app, 50)
        async with late as fresh:
            await call
            await asyncio.gather(*leaving)
            await reached(tabs[1::2] + fresh, 1)
            await client.call("Ticker/tick")
            await reached(tabs[1::2] + fresh, 2)
