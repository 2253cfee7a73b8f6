"""Events that share a commit: each keeps its answer and its rollback, and none waits for a slow one.

What would be lost without it: a hot key could be stalled by one slow event, or one failing event could take others' work along.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from faststate_asgi import FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, StateScope, event
from faststate_asgi.errors import LeaseLostError
from faststate_asgi.stores.base import Lease, Write
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import SECRET

pytestmark = pytest.mark.anyio
TIMES = 40


class Shelf(ReactiveState):
    """Counts and lists who came, in every kind of handler."""

    total: int = 0
    names: list[str] = []

    @event
    async def add_async(self, name: str = "") -> None:
        """Wait between reading and writing."""
        before = self.total
        await asyncio.sleep(0)
        self.total = before + 1
        self.names.append(name)

    @event(inline=True)
    def add_inline(self, name: str = "") -> None:
        """Do not wait."""
        self.total += 1
        self.names.append(name)

    @event
    def add_thread(self, name: str = "") -> None:
        """Run in a thread."""
        self.total += 1
        self.names.append(name)

    @event
    def fail_thread(self) -> None:
        """Change and fail in a thread."""
        self.total += 1000
        raise ValueError("no")

    @event
    async def fail_async(self) -> None:
        """Change and fail on the loop."""
        self.total += 1000
        await asyncio.sleep(0)
        raise ValueError("no")

    @event(timeout=0.2)
    def stick(self) -> None:
        """Change, and return when a test lets it."""
        self.total += 1000
        released.wait(20)

    @event(timeout=0.2)
    async def stick_async(self) -> None:
        """Change, and wait for ever."""
        self.total += 1000
        await asyncio.sleep(60)

    @event
    async def wait(self) -> None:
        """Count once a test lets it."""
        while not released.is_set():
            await asyncio.sleep(0.005)
        self.total += 1


released = threading.Event()
ADDERS = ("add_async", "add_inline", "add_thread")


@pytest.fixture(autouse=True)
def _released() -> Any:
    released.clear()
    yield
    released.set()


@pytest.fixture(params=["memory, at once", "memory", "sqlite"])
async def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FastStateMiddleware]:
    """A site with one shared state: calls run at once where they can, or all of them wait in their key's line."""
    store = f"sqlite+aiosqlite:///{tmp_path / 'shelf.db'}" if request.param == "sqlite" else "memory:"
    async with opened(store, is_eager=request.param == "memory, at once") as app:
        yield app


@asynccontextmanager
async def opened(store: str, *, is_eager: bool = True) -> AsyncIterator[FastStateMiddleware]:
    registry = StateRegistry()
    registry.register(Shelf, StateConfig(scope=StateScope.GLOBAL))

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        """Answer no request."""

    app = FastStateMiddleware(nothing, registry=registry, secret_key=SECRET, store=store, debug=True)
    async with app.faststate as engine:
        engine.runtime.is_eager = is_eager
        yield app


async def call_all(app: FastStateMiddleware, names: Sequence[str]) -> list[int]:
    """Call events at once, and return the statuses of their answers."""
    async with FastStateClient(app) as client:
        answers = await asyncio.gather(
            *(client.call(f"Shelf/{event}", name=str(index)) for index, event in enumerate(names))
        )
    return [answer.status for answer in answers]


async def test_events_of_all_kinds_at_once_all_count(shelf: FastStateMiddleware) -> None:
    names = [ADDERS[index % 3] for index in range(TIMES)]
    assert set(await call_all(shelf, names)) == {200}
    state = await shelf.faststate.get(Shelf)
    assert state.total == TIMES
    assert sorted(state.names, key=int) == [str(index) for index in range(TIMES)]


async def test_a_failing_event_takes_nothing_of_others_along(shelf: FastStateMiddleware) -> None:
    names = [
        ("fail_thread", "add_thread", "fail_async", "add_async", "add_inline")[index % 5] for index in range(TIMES)
    ]
    await call_all(shelf, names)
    assert (await shelf.faststate.get(Shelf)).total == sum(name in ADDERS for name in names)


@pytest.mark.parametrize("stuck", ["stick", "stick_async"])
async def test_a_stuck_event_is_given_up_and_those_behind_it_run(shelf: FastStateMiddleware, stuck: str) -> None:
    names = ["add_thread", "add_async", stuck, "add_thread", "add_inline", "add_async", "add_thread"]
    async with asyncio.timeout(15):
        await call_all(shelf, names)
    released.set()
    await asyncio.sleep(0.05)
    assert (await shelf.faststate.get(Shelf)).total == len(names) - 1


async def test_those_before_a_slow_event_are_answered_while_it_runs(shelf: FastStateMiddleware) -> None:
    async with FastStateClient(shelf) as client, asyncio.timeout(15):
        first = [asyncio.ensure_future(client.call("Shelf/add_thread", name=str(index))) for index in range(5)]
        await asyncio.sleep(0)
        slow = asyncio.ensure_future(client.call("Shelf/wait"))
        await asyncio.gather(*first)
        assert not slow.done()
        released.set()
        await slow
    assert (await shelf.faststate.get(Shelf)).total == 6


async def test_each_answer_shows_its_own_value(shelf: FastStateMiddleware) -> None:
    async with FastStateClient(shelf) as client:
        answers = await asyncio.gather(*(client.call(f"Shelf/{ADDERS[index % 3]}") for index in range(TIMES)))
    assert sorted(answer.signals["total"] for answer in answers) == list(range(1, TIMES + 1))


async def test_calls_that_wait_share_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'shelf.db'}") as app:
        store, commits = app.faststate.backends.stores["database"], list[int]()
        commit = store.commit

        async def counted(lease: Lease, writes: Sequence[Write], **options: Any) -> None:
            commits.append(len(options["remember"]))
            await commit(lease, writes, **options)

        monkeypatch.setattr(store, "commit", counted)
        async with FastStateClient(app) as client:
            await asyncio.gather(
                *(client.call("Shelf/add_inline", headers={"Idempotency-Key": f"k{index}"}) for index in range(TIMES))
            )
        assert sum(commits) == TIMES
        assert len(commits) <= 4
        assert (await app.faststate.get(Shelf)).total == TIMES


async def test_if_the_commit_fails_all_of_the_batch_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'shelf.db'}") as app:
        store = app.faststate.backends.stores["database"]

        async def lost(lease: Lease, writes: Sequence[Write], **options: Any) -> None:
            raise LeaseLostError("too late")

        with monkeypatch.context() as patch:
            patch.setattr(store, "commit", lost)
            async with FastStateClient(app) as client:
                answers = await asyncio.gather(*(client.call("Shelf/add_inline") for _ in range(5)))
            assert {(answer.error or {}).get("status") for answer in answers} == {409}
        assert (await app.faststate.get(Shelf)).total == 0
        assert set(await call_all(app, ["add_inline"])) == {200}
