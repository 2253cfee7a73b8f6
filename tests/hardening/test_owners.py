"""What belongs to one user reaches no other, over many states and two processes, while tabs come and go."""

import asyncio
import random
from collections import Counter
from types import TracebackType
from typing import Any

import httpx
import pytest

from faststate_asgi.testing.sse import FrameReader, apply
from tests.apps.diaries_site import NAMES
from tests.apps.shared_clients import settings_of
from tests.conftest import Serve

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
APP = "tests.apps.diaries_site:app"


class Readers:
    """Open streams of many users; counts every value that arrives, and keeps those that are somebody else's."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._news = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], tuple[str, str, dict[str, Any]]] = {}
        self.foreign: list[tuple[str, str]] = []
        self.deliveries = 0

    async def __aenter__(self) -> "Readers":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(self._close(task) for task in list(self._tasks)))

    def open(self, url: str, user: str) -> None:
        """Open one more stream."""
        signals: dict[str, Any] = {}
        self._tasks[asyncio.create_task(self._read(url, user, signals))] = (url, user, signals)

    async def replace_one(self, rng: random.Random, user: str) -> None:
        """Close some stream, and open one of this user at the same process."""
        task = rng.choice(list(self._tasks))
        url = self._tasks[task][0]
        await self._close(task)
        self.open(url, user)

    async def _close(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        task.cancel()
        await asyncio.wait({task})

    async def _read(self, url: str, user: str, signals: dict[str, Any]) -> None:
        reader, address = FrameReader(), f"{url}/faststate/sse?states={','.join(NAMES)}"
        async with self._client.stream("GET", address, headers={"x-who": user}) as answer:
            assert answer.status_code == 200
            async for chunk in answer.aiter_raw():
                for frame in reader.feed(chunk):
                    is_first = not signals
                    for name, patch in (frame.patch or {}).items():
                        if name in NAMES and patch.get("line"):
                            self.deliveries += not is_first
                            if patch["line"].split()[0] != user:
                                self.foreign.append((user, patch["line"]))
                    apply(signals, frame)
                self._news.set()

    async def until_all_show(self, written: Counter[tuple[str, str]]) -> None:
        """Return when every stream shows what its user has written, and nothing else."""

        def is_right(user: str, signals: dict[str, Any]) -> bool:
            return bool(signals) and all(signals[name]["count"] == written[user, name] for name in NAMES)

        async with asyncio.timeout(30):
            while not all(is_right(user, signals) for _, user, signals in self._tasks.values()):
                assert not any(task.done() for task in self._tasks), "no stream ends by itself"
                self._news.clear()
                await self._news.wait()


@pytest.mark.parametrize(
    ("users", "tabs", "deliveries"),
    [(12, 1, 1_500), pytest.param(50, 5, 100_000, marks=[pytest.mark.full, pytest.mark.timeout(300)])],
)
async def test_no_delivery_of_two_processes_reaches_a_foreign_owner(
    serve: Serve, redis_url: str, users: int, tabs: int, deliveries: int
) -> None:
    """One change on its way through the wrong channel or stream shows a user's data to somebody else."""
    places = [(await asyncio.to_thread(serve, APP, env=settings_of(redis_url))).url for _ in range(2)]
    names = [f"user{number}" for number in range(users)]
    rng = random.Random(33)
    written: Counter[tuple[str, str]] = Counter()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(60), limits=limits) as client,
        Readers(client) as readers,
    ):
        for user in names:
            for url in places * tabs:
                readers.open(url, user)
        await readers.until_all_show(written)

        async def write(user: str) -> None:
            state = rng.choice(NAMES)
            written[user, state] += 1
            url = f"{rng.choice(places)}/faststate/events/{state}/write"
            answer = await client.post(url, json={}, headers={"x-who": user})
            assert answer.status_code == 200, answer.text

        while readers.deliveries < deliveries:
            await asyncio.gather(*map(write, names), readers.replace_one(rng, rng.choice(names)))
            assert readers.foreign == []
        await readers.until_all_show(written)
        assert readers.foreign == []
