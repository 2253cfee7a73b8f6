"""Streams behind nginx as Debian configures it: the first bytes come at once, silence is no end, and gzip holds nothing back."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from faststate_asgi.testing.sse import Frame, FrameReader
from tests.apps.shared_clients import APP, new_client, post, settings_of
from tests.conftest import Serve
from tests.services import SiteServer

pytestmark = pytest.mark.anyio
StartNginx = Callable[..., SiteServer]
GZIP = "gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0; gzip_comp_level 9;"
FULL = [pytest.mark.full, pytest.mark.timeout(300)]


async def frames(answer: httpx.Response) -> AsyncIterator[Frame]:
    """Yield the messages of a stream as they come, unpacked."""
    reader = FrameReader()
    async for data in answer.aiter_bytes():
        for frame in reader.feed(data):
            yield frame


async def until_count(following: AsyncIterator[Frame], count: int, within_s: float) -> None:
    """Return when the count is shown."""
    async with asyncio.timeout(within_s):
        async for frame in following:
            if frame.patch and frame.patch.get("Counter") == {"count": count}:
                return
    raise AssertionError("the stream has ended")


@pytest.mark.parametrize("directives", ["", GZIP], ids=["default", "gzip"])
@pytest.mark.parametrize(
    ("heartbeat_s", "read_timeout_s", "idle_s"), [(0.4, 1, 2.5), pytest.param(15, None, 120, marks=FULL)]
)
async def test_r37_a_stream_behind_nginx_begins_at_once_and_outlives_silence(
    serve: Serve,
    start_nginx: StartNginx,
    slack: float,
    directives: str,
    heartbeat_s: float,
    read_timeout_s: float | None,
    idle_s: float,
) -> None:
    site = await asyncio.to_thread(serve, APP, env=settings_of("memory:", heartbeat=heartbeat_s))
    timeout = "" if read_timeout_s is None else f"proxy_read_timeout {read_timeout_s}s;"
    nginx = await asyncio.to_thread(start_nginx, site.port, timeout + directives)
    is_packed = bool(directives)
    async with new_client() as client, new_client() as other:
        await post(other, nginx.url, "Counter/bump")
        async with asyncio.timeout(0.2 * slack):
            request = client.build_request("GET", f"{nginx.url}/faststate/sse?states=Counter")
            answer = await client.send(request, stream=True)
        following = frames(answer)
        try:
            assert (answer.headers.get("content-encoding") == "gzip") is is_packed
            assert answer.headers["cache-control"] == "no-store, no-transform"
            await until_count(following, 1, 0.2 * slack)
            for count in (2, 3):
                await asyncio.sleep(idle_s * (count - 2))  # at once, and after a silence
                assert (await post(other, nginx.url, "Counter/bump")).status_code == 200
                await until_count(following, count, 0.2 * slack)
        finally:
            await answer.aclose()
