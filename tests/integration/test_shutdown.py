"""A server that is told to stop: streams end cleanly and apart, events finish, the inner app stops in order."""

import asyncio
import re
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.apps.herd import allow_files
from tests.conftest import Serve
from tests.services import SiteServer

pytestmark = pytest.mark.anyio
APP = "tests.hardening.counter_site:app"


class Connection:
    """A raw HTTP/1.1 connection, so that the end of a chunked body can be seen."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.close()

    @classmethod
    async def open(cls, site: SiteServer, request: str) -> "Connection":
        connection = cls(*await asyncio.open_connection("127.0.0.1", site.port))
        connection.writer.write(request.replace("\n", "\r\n").encode())
        await connection.writer.drain()
        return connection

    async def until(self, text: bytes) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(text)

    async def rest(self) -> bytes:
        async with asyncio.timeout(30):
            return await self.reader.read()


STREAM = "GET /faststate/sse?states=Tally HTTP/1.1\nHost: {host}\n\n"
POST = "POST /faststate/events/{name} HTTP/1.1\nHost: {host}\nContent-Length: 2\n\n{{}}"


def host(site: SiteServer) -> str:
    return f"127.0.0.1:{site.port}"


async def until_running(folder: Path) -> None:
    """Wait until the slow event has left its mark."""
    async with asyncio.timeout(10):
        while not (folder / "running").exists():
            await asyncio.sleep(0.01)


async def left_within(site: SiteServer, deadline_s: float) -> float:
    """Return after how many seconds the process was gone."""
    began = time.monotonic()
    await asyncio.to_thread(site.wait, deadline_s)
    return time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", [[], ["--loop", "asyncio", "--http", "h11"]], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.full)])
async def test_open_streams_end_cleanly_and_the_process_leaves(
    serve: Serve, tmp_path: Path, slack: float, number: int, arguments: list[str], count: int
) -> None:
    allow_files(2 * count + 500)
    site = serve(APP, *arguments, env={"MARKS": str(tmp_path)})
    async with AsyncExitStack() as stack:
        tabs = []
        for _ in range(count):
            tab = await stack.enter_async_context(await Connection.open(site, STREAM.format(host=host(site))))
            await tab.until(b'"live":"Tally"')
            tabs.append(tab)
        site.process.send_signal(number)
        assert await left_within(site, 10) < 2 * slack
        bodies = await asyncio.gather(*(tab.rest() for tab in tabs))
    assert all(body.endswith(b"\r\n0\r\n\r\n") for body in bodies)
    assert all(b'"connected":false' in body for body in bodies)
    delays = [int(match[1]) for body in bodies if (match := re.search(rb"retry: (\d+)", body))]
    assert len(delays) == count
    assert len(set(delays)) > count / 2
    assert all(1000 <= delay <= 10_000 for delay in delays)
    assert (tmp_path / "stopped").read_text() == "in order"


WITHOUT_LIFESPAN = [
    pytest.param("mounted", "/sub", [], id="mounted"),
    pytest.param("app", "", ["--lifespan", "off"], id="no-lifespan"),
    pytest.param("by_hand", "", [], id="by-hand"),
]


@pytest.mark.parametrize(("name", "prefix", "arguments"), WITHOUT_LIFESPAN)
async def test_streams_of_an_app_that_gets_no_lifespan_end_cleanly_too(
    serve: Serve, tmp_path: Path, slack: float, name: str, prefix: str, arguments: list[str]
) -> None:
    site = serve(
        f"tests.hardening.counter_site:{name}",
        *arguments,
        env={"MARKS": str(tmp_path)},
        ready_path=f"{prefix}/faststate/health",
    )
    request = STREAM.replace("/faststate", f"{prefix}/faststate").format(host=host(site))
    async with await Connection.open(site, request) as tab:
        await tab.until(b'"live":"Tally"')
        site.terminate()
        assert await left_within(site, 15) < 2 * slack
        body = await tab.rest()
    assert body.endswith(b"\r\n0\r\n\r\n")
    assert b'"connected":false' in body


async def test_an_event_of_an_app_that_gets_no_lifespan_is_given_up_too(
    serve: Serve, tmp_path: Path, slack: float
) -> None:
    environment = {"MARKS": str(tmp_path), "SLOW_S": "30", "FASTSTATE_DRAIN_TIMEOUT": "0.5"}
    site = serve(APP, "--lifespan", "off", env=environment)
    async with await Connection.open(site, POST.format(host=host(site), name="Tally/add_slowly")) as request:
        await until_running(tmp_path)
        site.terminate()
        assert await left_within(site, 12) < 2.5 * slack
        assert b" 503 " in await request.rest()
    assert not (tmp_path / "finished").exists()


async def test_an_event_that_runs_is_finished_first(serve: Serve, tmp_path: Path, slack: float) -> None:
    site = serve(APP, env={"MARKS": str(tmp_path), "SLOW_S": "0.7"})
    async with (
        await Connection.open(site, POST.format(host=host(site), name="Tally/add_slowly")) as request,
        await Connection.open(site, STREAM.format(host=host(site))) as tab,
    ):
        await tab.until(b'"live":"Tally"')
        await until_running(tmp_path)
        site.terminate()
        answer = await request.rest()
        assert b" 200 OK" in answer
        assert b'"total":1' in answer
        assert await left_within(site, 10) < 2 * slack
        assert (await tab.rest()).endswith(b"\r\n0\r\n\r\n")
    assert (tmp_path / "finished").exists()
    assert (tmp_path / "stopped").exists()


async def test_an_event_that_does_not_end_is_given_up(serve: Serve, tmp_path: Path, slack: float) -> None:
    environment = {"MARKS": str(tmp_path), "SLOW_S": "30", "FASTSTATE_DRAIN_TIMEOUT": "0.5"}
    site = serve(APP, env=environment)
    async with await Connection.open(site, POST.format(host=host(site), name="Tally/add_slowly")) as request:
        await until_running(tmp_path)
        site.terminate()
        assert await left_within(site, 12) < 2.5 * slack
        answer = await request.rest()
        assert b" 200 OK" not in answer
    assert not (tmp_path / "finished").exists()


async def test_a_new_event_is_refused_while_the_server_stops(serve: Serve, tmp_path: Path) -> None:
    site = serve(APP, env={"MARKS": str(tmp_path), "SLOW_S": "1"})
    async with (
        await Connection.open(site, POST.format(host=host(site), name="Tally/add_slowly")) as running,
        await Connection.open(site, POST.format(host=host(site), name="OwnTally/add_inline")) as late,
    ):
        await late.until(b'"total":1}}\n\n')
        await until_running(tmp_path)
        site.terminate()
        async with asyncio.timeout(10):
            while "Shutting down" not in site.log:
                await asyncio.sleep(0.01)
        late.writer.write(POST.format(host=host(site), name="OwnTally/add_inline").replace("\n", "\r\n").encode())
        refused = await late.rest()
        assert refused == b"" or b" 503 " in refused
        assert b'"total":' in await running.rest()


async def test_an_idle_server_leaves_at_once(serve: Serve, tmp_path: Path, slack: float) -> None:
    site = serve(APP, env={"MARKS": str(tmp_path)})
    site.terminate()
    assert await left_within(site, 10) < 2 * slack
    assert (tmp_path / "stopped").exists()
    assert "Traceback" not in site.log
