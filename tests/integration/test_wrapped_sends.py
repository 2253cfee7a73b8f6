"""Streams behind a middleware that has put something of its own around ``send``, at a real server and without one."""

import asyncio
import logging
from contextvars import ContextVar
from typing import Any

import anyio
import httpx
import pytest

from faststate_asgi.testing import FastStateClient
from faststate_asgi.testing.sse import FrameReader
from tests.apps.middleware_site import Beat, with_send
from tests.conftest import Serve
from tests.hardening.wrapping import GLOBAL, wrapped
from tests.services import SiteServer

pytestmark = pytest.mark.anyio
APP = "tests.apps.middleware_site"


class Reading:
    """What one client has read of a stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.parts = FrameReader()
        self.counts: list[int] = []
        self.last: dict[str, Any] = {}
        self._chunks = response.aiter_bytes()

    async def until(self, count: int, within_s: float) -> None:
        """Read until a count is shown."""
        async with asyncio.timeout(within_s):
            while count not in self.counts:
                await self.more()

    async def until_end(self, within_s: float) -> None:
        """Read until the server ends the response."""
        async with asyncio.timeout(within_s):
            while await self.more():
                pass

    async def until_comments(self, number: int, within_s: float) -> None:
        """Read until so many more comments have come, which heartbeats are."""
        wanted = self.parts.comments + number
        async with asyncio.timeout(within_s):
            while self.parts.comments < wanted:
                assert await self.more(), "the stream has ended"

    async def more(self) -> bool:
        """Read one chunk; false at the end."""
        chunk = await anext(self._chunks, None)
        for frame in self.parts.feed(chunk or b""):
            self.last = frame.patch or {}
            if "beats" in self.last:
                self.counts.append(self.last["beats"])
        return chunk is not None


async def beat(client: httpx.AsyncClient, site: SiteServer) -> None:
    answer = await client.post(site.url + "/faststate/events/Beat/beat", json={})
    assert answer.status_code == 200, answer.text


async def streams_of(client: httpx.AsyncClient, site: SiteServer) -> int:
    """Return how many streams are open; the page of the site says it."""
    return int((await client.get(site.url + "/streams")).text)


UVLOOP, H11 = ["--loop", "uvloop", "--http", "httptools"], ["--loop", "asyncio", "--http", "h11"]
SITES = {
    "base_http": UVLOOP,
    "fastapi_inside": H11,
    "with_timeout": UVLOOP,
    "with_scope": H11,
    "starlette_inside": UVLOOP,
}


@pytest.mark.parametrize("name", SITES)
async def test_changes_heartbeats_and_the_end_arrive_behind_a_middleware(serve: Serve, slack: float, name: str) -> None:
    site = serve(f"{APP}:{name}", *SITES[name], env={"FASTSTATE_HEARTBEAT": "0.3"})
    async with httpx.AsyncClient(timeout=20) as client:
        async with client.stream("GET", site.url + "/faststate/sse?states=Beat") as response:
            reading = Reading(response)
            await reading.until(0, 5 * slack)
            for count in range(1, 6):
                await beat(client, site)
                await reading.until(count, 2 * slack)
            await asyncio.gather(*(beat(client, site) for _ in range(20)))
            await reading.until(25, 5 * slack)
            await reading.until_comments(3, 5 * slack)
            await beat(client, site)
            await reading.until(26, 2 * slack)
            site.terminate()
            await reading.until_end(5 * slack)
            assert reading.last == {"_faststate": {"connected": False, "live": ""}}
            assert reading.counts == sorted(reading.counts), "never an older value after a newer one"
        await asyncio.to_thread(site.wait, 5 * slack)
    assert "Traceback" not in site.log


@pytest.mark.parametrize("name", ["base_http", "with_scope"])
async def test_a_stream_behind_a_middleware_ends_when_its_client_leaves(serve: Serve, slack: float, name: str) -> None:
    site = serve(f"{APP}:{name}", env={"FASTSTATE_HEARTBEAT": "0.3"})
    async with httpx.AsyncClient(timeout=20) as client:
        async with client.stream("GET", site.url + "/faststate/sse?states=Beat") as response:
            reading = Reading(response)  # closes the response when it is gone
            await reading.until(0, 5 * slack)
            assert await streams_of(client, site) == 1
        async with asyncio.timeout(5 * slack):
            while await streams_of(client, site):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", ["base_http", "with_timeout"])
async def test_a_reader_that_stands_still_behind_a_middleware_gets_the_newest_value_and_delays_nobody(
    serve: Serve, slack: float, name: str
) -> None:
    site = serve(f"{APP}:{name}", env={"FASTSTATE_WRITE_DEADLINE": "60"})
    async with (
        httpx.AsyncClient(timeout=20) as client,
        client.stream("GET", site.url + "/faststate/sse?states=Beat") as slow,
        client.stream("GET", site.url + "/faststate/sse?states=Beat") as other,
    ):
        standing, reading = Reading(slow), Reading(other)
        await standing.until(0, 5 * slack)
        for count in range(1, 151):
            answer = await client.post(site.url + "/faststate/events/Beat/fill", json={"text": "x" * 60_000})
            assert answer.status_code == 200, answer.text
            await reading.until(count, 5 * slack)
        await standing.until(150, 20 * slack)
        assert len(standing.counts) < 150, "what was on its way, and the newest value"
        await beat(client, site)
        await standing.until(151, 5 * slack)
        await reading.until(151, 5 * slack)


# -- without a server --------------------------------------------------------------------------------------------------


async def test_one_task_enters_and_leaves_what_a_middleware_puts_around_a_send() -> None:
    entered: list[tuple[Any, Any]] = []
    is_slow = False

    async def careful(send: Any, message: Any) -> None:
        before = asyncio.current_task()
        assert before is not None
        with anyio.fail_after(5):
            if is_slow:
                await asyncio.sleep(0.05)
            await send(message)
        entered.append((before, asyncio.current_task()))

    app = with_send(wrapped((Beat, GLOBAL), heartbeat=0.1), careful)
    async with FastStateClient(app) as client, client.stream("Beat") as stream:
        for is_slow in (False, True, False, True):  # noqa: B007  # `careful` reads it
            for _ in range(3):
                await client.call("Beat/beat")
            await asyncio.sleep(0.3)
        await stream.until(lambda signals: signals["beats"] == 12)
        stream.stall()
        await client.call("Beat/beat")
        await client.call("Beat/beat")
        stream.resume()
        await stream.until(lambda signals: signals["beats"] == 14)
    assert len(entered) > 12
    assert all(before is after for before, after in entered)


async def test_a_send_that_fails_is_logged_and_ends_its_stream_alone(caplog: pytest.LogCaptureFixture) -> None:
    is_broken = False

    async def breaking(send: Any, message: Any) -> None:
        if is_broken and b"beats" in message.get("body", b""):
            raise LookupError("a fault of the middleware")
        await send(message)

    app = wrapped((Beat, GLOBAL))
    async with (
        FastStateClient(app) as other,
        FastStateClient(with_send(app, breaking)) as client,
        client.stream("Beat") as broken,
        other.stream("Beat") as whole,
    ):
        await broken.next()
        is_broken = True
        await other.call("Beat/beat")
        await whole.until(lambda signals: signals["beats"] == 1)
        await broken.until_end(2)
        assert app.faststate.hub.stream_count == 1
    errors = [record.exc_info for record in caplog.records if record.levelno == logging.ERROR]
    assert [error and error[0] for error in errors] == [LookupError]


async def test_a_wrapped_send_keeps_the_context_of_its_own_request() -> None:
    """A middleware that notes whose response it is would else note the one whose event is running."""
    whose: ContextVar[str] = ContextVar("whose", default="nobody")
    seen: list[str] = []

    async def noting(send: Any, message: Any) -> None:
        if b"beats" in message.get("body", b"") and message.get("more_body"):
            seen.append(whose.get())
        await send(message)

    app = with_send(wrapped((Beat, GLOBAL)), noting)

    async def naming(scope: Any, receive: Any, send: Any) -> None:
        whose.set(scope.get("path", "").rpartition("/")[2])
        await app(scope, receive, send)

    async with FastStateClient(naming) as client, client.stream("Beat") as stream:
        await stream.next()
        for count in (1, 2):
            await client.call("Beat/beat")
            await stream.until(lambda signals, count=count: signals["beats"] == count)
    assert set(seen) == {"sse"}
