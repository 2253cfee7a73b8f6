"""What visits the sites of `shared_site.py`: tabs that come back like a browser's, and clicks that are sent again."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

from faststate_asgi.testing.sse import FrameReader, apply
from tests.conftest import Serve
from tests.services import SiteServer

APP = "tests.apps.shared_site:app"
HAPPY = (200, 204)
Cookies = dict[str, str]
STORES = [
    "sqlite",
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("postgres", marks=pytest.mark.postgres),
]
"""The kinds of stores that processes share, as parameters of a fixture that returns `store_of`."""
FEWER_STORES = [*STORES[:2], pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.full])]
"""The same for tests that mostly wait: PostgreSQL, which runs SQLite's statements, only in full runs."""


def new_client(**options: Any) -> httpx.AsyncClient:
    """Return a client without a proxy, whose patience ends before the test's."""
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
    return httpx.AsyncClient(trust_env=False, timeout=30, limits=limits, **options)


def settings_of(url: str, **settings: Any) -> dict[str, str]:
    """Return the environment of a server on a store."""
    return {"FASTSTATE_STORE": url, **{f"FASTSTATE_{name.upper()}": str(value) for name, value in settings.items()}}


def store_of(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the address of an empty store of the kind that a fixture's parameter names."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{folder}/shared.db"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


async def serve_many(serve: Serve, count: int, env: dict[str, str], *args: str, app: str = APP) -> list[SiteServer]:
    """Return several servers of the same site; the first one makes the tables."""
    return [await asyncio.to_thread(serve, app, *args, env=env) for _ in range(count)]


class Tab:
    """One page's stream, which comes back whenever it ends; `signals` is what the page shows.

    Args:
        url: of the server.
        states: names that are watched.
        cookies: of the session.
        comes_back: whether the stream is opened again after its end.
    """

    def __init__(self, url: str, states: str, cookies: Cookies | None = None, *, comes_back: bool = True) -> None:
        self.url = f"{url}/faststate/sse?states={states}"
        self.cookies = cookies or {}
        self.comes_back = comes_back
        self.signals: dict[str, Any] = {}
        self.opened = 0
        self.statuses: list[int] = []
        self._last_id: str | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Tab":
        self._task = asyncio.create_task(self._stay())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _stay(self) -> None:
        async with new_client(cookies=self.cookies) as client:
            while True:
                with suppress(httpx.HTTPError):
                    await self._follow(client)
                self._news.set()
                if not self.comes_back:
                    return
                await asyncio.sleep(0.1)

    async def _follow(self, client: httpx.AsyncClient) -> None:
        headers = {} if self._last_id is None else {"last-event-id": self._last_id}
        timeout = httpx.Timeout(30, read=60)
        async with client.stream("GET", self.url, headers=headers, timeout=timeout) as response:
            self.statuses.append(response.status_code)
            if response.status_code != 200:
                return
            self.opened += 1
            reader = FrameReader()
            async for chunk in response.aiter_raw():
                for frame in reader.feed(chunk):
                    apply(self.signals, frame)
                    self._last_id = frame.id or self._last_id
                self._news.set()

    def value(self, path: str) -> Any:
        """Return what the page shows at a dotted path, None for nothing."""
        found: Any = self.signals
        for name in path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found

    @property
    def is_over(self) -> bool:
        """Whether the tab has ended for good."""
        return self._task is not None and self._task.done()

    async def until(self, is_so: Callable[["Tab"], bool], within_s: float = 20) -> None:
        """Return when the page is as wanted."""
        try:
            async with asyncio.timeout(within_s):
                while not is_so(self):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"after {within_s} s the page shows {self.signals}, {self.statuses}") from None

    async def shows(self, path: str, value: Any, within_s: float = 20) -> None:
        """Return when the page shows a value."""
        await self.until(lambda tab: tab.value(path) == value, within_s)


@asynccontextmanager
async def tabs_on(sites: Sequence[SiteServer], count: int, states: str) -> AsyncIterator[list[Tab]]:
    """Yield tabs of nobody in particular, spread over the servers, each with its first values."""
    tabs = [Tab(sites[number % len(sites)].url, states) for number in range(count)]
    try:
        for tab in tabs:
            await tab.__aenter__()
        await asyncio.gather(*(tab.until(lambda tab: bool(tab.signals)) for tab in tabs))
        yield tabs
    finally:
        await asyncio.gather(*(tab.__aexit__(None, None, None) for tab in tabs))


async def all_show(tabs: Sequence[Tab], path: str, value: Any, within_s: float = 20) -> None:
    """Return when every tab shows the value."""
    await asyncio.gather(*(tab.shows(path, value, within_s) for tab in tabs))


async def post(
    client: httpx.AsyncClient, site_url: str, event: str, key: str | None = None, **data: Any
) -> httpx.Response:
    """Return the answer to one event."""
    headers = {} if key is None else {"idempotency-key": key}
    return await client.post(f"{site_url}/faststate/events/{event}", json=data, headers=headers)


async def visitor(client: httpx.AsyncClient, site_url: str) -> None:
    """Give a client its session."""
    answer = await client.get(site_url + "/")
    assert answer.status_code == 200, answer.text


class Clicker:
    """A visitor without a fixed server, who clicks until the click was taken: each has one key, however often it is sent.

    Args:
        urls: asks for the servers' addresses anew each time.
    """

    def __init__(self, urls: Callable[[], Sequence[str]]) -> None:
        self.urls = urls
        self.client = new_client()
        self.statuses: dict[int, int] = {}
        self.refusals: list[str] = []
        self.repeats = 0
        self.slowest_s = self.slowest_refusal_s = 0.0
        self._turn = 0

    async def click(self, event: str, *, within_s: float = 60) -> httpx.Response:
        """Send one click to one server after the other until it is acknowledged."""
        key = uuid.uuid4().hex
        began = asyncio.get_running_loop().time()
        while (waited_s := asyncio.get_running_loop().time() - began) < within_s:
            answer = await self._send(event, key)
            if answer is not None and answer.status_code in HAPPY:
                self.slowest_s = max(self.slowest_s, asyncio.get_running_loop().time() - began)
                return answer
            self.repeats += 1
            await asyncio.sleep(0.05)
        raise AssertionError(f"no answer in {waited_s:.0f} s: {self.statuses}, {self.refusals[-3:]}")

    async def _send(self, event: str, key: str) -> httpx.Response | None:
        urls = self.urls()
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._turn += 1
        try:
            answer = await post(self.client, urls[self._turn % len(urls)], event, key)
        except httpx.TransportError:
            return None
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        if answer.status_code not in HAPPY:
            self.refusals.append(answer.text)
            self.slowest_refusal_s = max(self.slowest_refusal_s, loop.time() - began)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
        assert answer.status_code in (*HAPPY, 503, 409), (answer.status_code, answer.text)
        return answer


@asynccontextmanager
async def clickers(count: int, urls: Callable[[], Sequence[str]]) -> AsyncIterator[list[Clicker]]:
    """Yield visitors, each with a session."""
    people = [Clicker(urls) for _ in range(count)]
    try:
        for person in people:
            await visitor(person.client, urls()[0])
        yield people
    finally:
        for person in people:
            await person.client.aclose()
