"""A store that did what it was told, but whose reply is lost: nothing is done twice, and nothing that was done is forgotten."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette

from faststate_asgi import FastStateMiddleware
from tests.apps.shared_clients import HAPPY
from tests.apps.shared_site import Counter, make_registry
from tests.hardening.wrapping import SECRET

pytestmark = pytest.mark.anyio
LOST_SHARE = 0.2
MARKS = {"redis": b"", "postgres": b"COMMIT\x00"}
"""What a reply contains that may be lost: a transaction of PostgreSQL has a dozen replies, of which the last one counts."""
GREETINGS = 2
CLIENTS = 8


class LossyProxy:
    """Passes everything on to a store, but loses a share of its replies, and the connection with each.

    Args:
        port: of the store.
        mark: what replies contain that may be lost; the first ones of a connection are not, so that one can be made.
    """

    def __init__(self, port: int, mark: bytes) -> None:
        self._port, self._mark = port, mark
        self._random = random.Random(7)
        self.is_lossy = False
        self.lost = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        """Yield the port at which it listens."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        there = asyncio.create_task(self._pass(reader, far_writer))
        try:
            await self._answer(far_reader, writer)
        finally:
            there.cancel()
            writer.close()
            far_writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies = 0
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                replies += 1
                may_go = self.is_lossy and replies > GREETINGS and self._mark in data
                if may_go and self._random.random() < LOST_SHARE:
                    self.lost += 1
                    return
                writer.write(data)


@pytest.mark.parametrize("events", [48, pytest.param(1000, marks=[pytest.mark.full, pytest.mark.timeout(300)])])
@pytest.mark.parametrize(
    "kind",
    [pytest.param("redis", marks=pytest.mark.redis), pytest.param("postgres", marks=pytest.mark.postgres)],
)
async def test_every_click_counts_once_while_a_fifth_of_the_replies_is_lost(
    request: pytest.FixtureRequest, kind: str, events: int
) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    port = urlsplit(url).port
    assert port is not None
    proxy = LossyProxy(port, MARKS[kind])
    async with proxy.open() as own_port:
        app = FastStateMiddleware(
            Starlette(),
            registry=make_registry(),
            secret_key=SECRET,
            store=url.replace(f":{port}", f":{own_port}"),
            debug=True,
            lease=1,
        )
        transport = httpx.ASGITransport(app)
        async with app.faststate as faststate, httpx.AsyncClient(transport=transport, base_url="http://site") as client:
            await client.post("/faststate/events/Own/bump")
            proxy.is_lossy = True

            async def click() -> None:
                headers = {"idempotency-key": uuid.uuid4().hex}
                async with asyncio.timeout(60):
                    while True:
                        answer = await client.post("/faststate/events/Counter/bump", headers=headers)
                        if answer.status_code in HAPPY:
                            return
                        assert answer.status_code in (503, 409), answer.text
                        await asyncio.sleep(0.01)

            async def work() -> None:
                for _ in range(events // CLIENTS):
                    await click()

            await asyncio.gather(*(work() for _ in range(CLIENTS)))
            proxy.is_lossy = False
            assert proxy.lost > 0
            assert (await faststate.get(Counter)).count == events
