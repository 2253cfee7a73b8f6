"""Between page and stream, between two streams, and while a stream opens: nothing is missed and nothing goes back."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from faststate_asgi import ReactiveState, StateConfig, StateScope, event
from faststate_asgi.patches import merge
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import wrapped

pytestmark = pytest.mark.anyio
EVERYBODY = StateConfig(scope=StateScope.GLOBAL)


class Counter(ReactiveState):
    """What everybody counts."""

    count: int = 0
    tree: dict[str, Any] = Field(default_factory=dict)
    huge: int = 0

    @event(inline=True)
    def bump(self) -> None:
        """Add one."""
        self.count += 1

    @event(inline=True)
    def plant(self, tree: dict[str, Any]) -> None:
        """Take a whole tree."""
        self.tree = tree

    @event(inline=True)
    def grow(self, base: int, power: int, plus: int) -> None:
        """Set a large number."""
        self.huge = base**power + plus


@pytest.fixture
async def client() -> AsyncIterator[FastStateClient]:
    """One browser."""
    async with FastStateClient(wrapped((Counter, EVERYBODY))) as client:
        await client.get("/")
        yield client


def scaled(small: int, large: int) -> Any:
    """Return both sizes of a test."""
    return pytest.mark.parametrize(
        "size", [small, pytest.param(large, marks=[pytest.mark.full, pytest.mark.timeout(900)])]
    )


@scaled(50, 1000)
async def test_r15_a_change_between_the_page_and_its_stream_is_shown(client: FastStateClient, size: int) -> None:
    last_id = None
    for number in range(1, size + 1):
        await client.call(Counter.bump)
        async with client.stream("Counter", last_event_id=last_id) as stream:
            await stream.until(lambda signals: "_faststate" in signals)
            assert stream.signals["count"] == number
            last_id = stream.last_id


@scaled(60, 1000)
async def test_r16_streams_that_open_during_changes_miss_none_and_never_go_back(
    client: FastStateClient, size: int
) -> None:
    is_over = asyncio.Event()

    async def change() -> int:
        changes = 0
        while not is_over.is_set():
            await client.call(Counter.bump)
            changes += 1
            await asyncio.sleep(0)
        return changes

    async def watch() -> None:
        async with client.another().stream("Counter") as stream:
            for _ in range(5):
                await stream.next()
            counts = [frame.patch["count"] for frame in stream.frames if frame.patch and "count" in frame.patch]
            assert counts == list(range(counts[0], counts[0] + len(counts))), "one after the other, without a gap"

    changing = asyncio.create_task(change())
    for _ in range(size // 20):
        await asyncio.gather(*(watch() for _ in range(20)))
    is_over.set()
    changes = await changing
    async with client.stream("Counter") as stream:
        await stream.until(lambda signals: signals["count"] == changes)


@scaled(300, 33_600)
async def test_r17_changes_of_three_processes_arrive_in_order(tmp_path: Path, size: int) -> None:
    store = f"sqlite+aiosqlite:///{tmp_path}/shared.db"
    async with AsyncExitStack() as stack:
        apps = [wrapped((Counter, EVERYBODY), store=store, debug=True) for _ in range(3)]
        clients = [await stack.enter_async_context(FastStateClient(app)) for app in apps]
        await clients[0].call(Counter.bump)
        for client in clients:
            client.cookies = clients[0].cookies
        streams = [await stack.enter_async_context(client.stream("Counter")) for client in clients]

        async def read(stream: Any) -> None:
            await stream.until(lambda signals: signals["count"] == size + 1, 600)
            counts = [frame.patch["count"] for frame in stream.frames if frame.patch and "count" in frame.patch]
            assert counts == sorted(set(counts))

        async def click(client: FastStateClient) -> None:
            for _ in range(size // len(clients)):
                await client.call(Counter.bump)

        await asyncio.gather(*map(read, streams), *map(click, clients))


@scaled(60, 600)
async def test_r45_nested_objects_are_equal_after_a_cut_at_each_edit(client: FastStateClient, size: int) -> None:
    chance = random.Random(size)

    def tree(depth: int) -> dict[str, Any]:
        return {
            name: tree(depth - 1) if depth and chance.random() < 0.6 else chance.randint(0, 3)
            for name in "abc"
            if chance.random() < 0.6
        }

    page: dict[str, Any] = {}
    last_id = None
    for _ in range(size):
        wanted = tree(3)
        await client.call(Counter.plant, wanted)  # the page is cut off meanwhile
        async with client.stream("Counter", last_event_id=last_id) as stream:
            await stream.until(lambda signals: "_faststate" in signals)
            for frame in stream.frames:
                assert frame.patch is not None
                assert "null" not in frame.data["signals"]
                merge(page, frame.patch)
            last_id = stream.last_id
        assert page["tree"] == wanted


@pytest.mark.parametrize(
    ("base", "power", "plus", "text"), [(2, 53, 1, str(2**53 + 1)), (10, 30, 0, str(10**30)), (2, 10, 0, 1024)]
)
async def test_r47_large_integers_arrive_exactly(
    client: FastStateClient, base: int, power: int, plus: int, text: Any
) -> None:
    answer = await client.call(Counter.grow, base, power, plus)
    assert answer.signals == {"huge": text}
    async with client.stream("Counter") as stream:
        await stream.until(lambda signals: signals["huge"] == text)
