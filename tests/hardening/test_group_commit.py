"""Events that share a commit: each keeps its answer and its rollback, and none waits for a slow one.

What would be lost without it: a hot key could be stalled by one slow event, or one failing event could take others' work along.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import Response

from faststate_asgi import (
    FastStateMiddleware,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    Writable,
    batches,
    event,
    runtime,
)
from faststate_asgi.errors import LeaseLostError
from faststate_asgi.stores.base import Lease, Write
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import SECRET

pytestmark = pytest.mark.anyio
TIMES = 40


async def _slowly(*_: Any) -> bool:
    """Let everybody pass, later."""
    await asyncio.sleep(0.5)
    return True


class Late(ReactiveState):
    """Takes long to be had."""

    total: int = 0


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

    @event(inline=True)
    def clear(self) -> None:
        """Delete it."""
        self.delete()

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


class Aside(ReactiveState):
    """Another key."""

    total: int = 0

    @event(timeout=0.2)
    def add_thread(self) -> None:
        """Run in a thread."""
        ran.append("add_thread")
        self.total += 1

    @event(timeout=0.2)
    async def add_both(self, shelf: Writable[Shelf], shown: Late) -> None:
        """Run with another state's turn, once a third one is there."""
        ran.append("add_both")

    @event(timeout=0.2)
    def add_both_thread(self, shelf: Writable[Shelf], shown: Late) -> None:
        """Do the same in a thread."""
        ran.append("add_both_thread")

    @event(timeout=0.2, inline=True)
    def add_both_inline(self, shelf: Writable[Shelf], shown: Late) -> None:
        """Do the same on the loop."""
        ran.append("add_both_inline")

    @event(inline=True)
    def answer_and_mail(self) -> Response:
        """Change something, and do more after the answer."""
        self.total += 1
        return Response("done", background=BackgroundTask(lambda: ran.append("mail")))


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Odd(ReactiveState):
    """Fails in ways that cannot be told."""

    total: int = 0

    @event(inline=True)
    def fail_inline(self, how: str) -> None:
        """Fail at once."""
        raise untold(how)

    @event
    async def fail_async(self, how: str) -> None:
        """Fail later."""
        await asyncio.sleep(0)
        raise untold(how)

    @event
    def fail_thread(self, how: str) -> None:
        """Fail in a thread."""
        raise untold(how)

    @event
    def fail_stream(self, how: str) -> Iterator[None]:
        """Fail after a step."""
        yield
        raise untold(how)

    @event(inline=True)
    def add(self) -> None:
        """Count."""
        self.total += 1


def untold(how: str) -> Exception:
    """Return an exception that no answer can show as it is."""
    if how == "text":
        return Mute()
    return HTTPException(409, "no", headers={"X-Why": "\u2713"})


ran: list[str] = []
released = threading.Event()
ADDERS = ("add_async", "add_inline", "add_thread")


@pytest.fixture(autouse=True)
def _released() -> Any:
    released.clear()
    ran.clear()
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
    registry.register(Aside, StateConfig(scope=StateScope.GLOBAL))
    registry.register(Odd, StateConfig(scope=StateScope.GLOBAL))
    registry.register(Late, StateConfig(scope=StateScope.GLOBAL, authorize=_slowly))

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


async def test_who_were_answered_together_share_their_next_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_GATHER_S", 5.0)
    clicks, visitors = 10, 8
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'shelf.db'}") as app, FastStateClient(app) as client:
        store, turns = app.faststate.backends.stores["database"], list[Lease]()
        acquire = store.acquire

        async def acquired_slowly(*keys: Any, **options: Any) -> Lease:
            await asyncio.sleep(0.1)
            turns.append(await acquire(*keys, **options))
            return turns[-1]

        monkeypatch.setattr(store, "acquire", acquired_slowly)

        async def visit(number: int) -> None:
            for _ in range(clicks):
                await asyncio.sleep(number * 0.001)  # no two of them are equally fast
                await client.call("Shelf/add_inline")

        await asyncio.gather(*map(visit, range(visitors)))
        assert (await app.faststate.get(Shelf)).total == clicks * visitors
        assert len(turns) <= clicks + 3, "not one for the first of them and another for the rest"


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


def status(answer: Any) -> int:
    """Return the status of an answer, also of one that a page gets as a signal."""
    return int((answer.error or {}).get("status", answer.status))


async def lined_up(app: FastStateMiddleware, client: FastStateClient, *events: str) -> list[asyncio.Future[Any]]:
    """Let events wait for one turn, in this order, and let it go."""
    calls: list[asyncio.Future[Any]] = []
    mailboxes, is_held, may_go = app.faststate.runtime.turns.mailboxes, asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with app.faststate.transaction(Shelf):
            is_held.set()
            await may_go.wait()

    holding = asyncio.ensure_future(hold())
    async with asyncio.timeout(15):
        await is_held.wait()
        for name in events:
            calls.append(asyncio.ensure_future(client.call(f"Shelf/{name}")))
            while mailboxes.waiting < len(calls):
                await asyncio.sleep(0.005)
        may_go.set()
        await holding
    return calls


@pytest.mark.parametrize("names", ["add clear", "add clear add", "clear add clear"])
async def test_a_state_may_be_made_and_deleted_by_events_that_share_a_commit(
    shelf: FastStateMiddleware, names: str
) -> None:
    events = names.replace("add", "add_inline").split()
    async with FastStateClient(shelf) as client:
        for _ in range(2):  # nothing is stored at first, something later
            answers = await asyncio.gather(*await lined_up(shelf, client, *events))
            assert {status(answer) for answer in answers} <= {200, 204}
            assert (await shelf.faststate.get(Shelf)).total == names.endswith("add")
            async with shelf.faststate.transaction(Shelf) as state:
                state.total = 0
                state.names = ["stored"]


async def test_what_runs_while_the_commit_before_it_fails_is_answered_like_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'shelf.db'}") as app, FastStateClient(app) as client:
        store = app.faststate.backends.stores["database"]

        async def lost(lease: Lease, writes: Sequence[Write], **options: Any) -> None:
            raise LeaseLostError("too late")

        calls = await lined_up(app, client, "add_inline", "wait")
        with monkeypatch.context() as patch:
            patch.setattr(store, "commit", lost)
            assert status(await calls[0]) == 409
        assert not calls[1].done()
        released.set()
        assert status(await calls[1]) == 409
        assert (await app.faststate.get(Shelf)).total == 0


@pytest.mark.parametrize("store", ["memory, at once", "memory", "sqlite"])
async def test_an_event_for_which_no_thread_is_free_in_time_is_refused_and_never_runs(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "WORKER_THREADS", 1)
    url = f"sqlite+aiosqlite:///{tmp_path / 'shelf.db'}" if store == "sqlite" else "memory:"
    async with opened(url, is_eager=store == "memory, at once") as app, FastStateClient(app) as client:
        async with asyncio.timeout(15):
            assert status(await client.call("Shelf/stick")) == 504
            assert status(await client.call("Aside/add_thread")) == 503
            async with app.faststate.transaction(Aside) as aside:  # the turn is free
                assert aside.total == 0
            assert ran == []
            released.set()
            assert status(await client.call("Aside/add_thread")) == 200
        assert ran == ["add_thread"]


@pytest.mark.parametrize("event", ["add_both", "add_both_thread", "add_both_inline"])
async def test_an_event_whose_time_is_over_before_its_handler_began_never_runs(event: str) -> None:
    async with opened("memory:") as app, FastStateClient(app) as client:
        assert status(await client.call(f"Aside/{event}")) == 504
        await asyncio.sleep(0.6)
        assert ran == []


async def test_what_a_response_does_afterwards_is_left_out_if_the_commit_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'shelf.db'}") as app, FastStateClient(app) as client:
        store = app.faststate.backends.stores["database"]

        async def lost(lease: Lease, writes: Sequence[Write], **options: Any) -> None:
            raise LeaseLostError("too late")

        with monkeypatch.context() as patch:
            patch.setattr(store, "commit", lost)
            assert status(await client.call("Aside/answer_and_mail")) == 409
        assert ran == []
        assert status(await client.call("Aside/answer_and_mail")) == 200
        assert ran == ["mail"]


@pytest.mark.parametrize("how", ["text", "header"])
@pytest.mark.parametrize("kind", ["inline", "async", "thread", "stream"])
async def test_an_exception_that_cannot_be_shown_is_answered_and_holds_up_nobody(
    shelf: FastStateMiddleware, kind: str, how: str
) -> None:
    async with FastStateClient(shelf) as client, asyncio.timeout(5):
        assert status(await client.call(f"Odd/fail_{kind}", how=how)) == 500
        assert status(await client.call("Odd/add")) == 200


async def test_a_transaction_whose_caller_is_cancelled_while_it_commits_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'shelf.db'}") as app:
        store, begun, may_go = app.faststate.backends.stores["database"], asyncio.Event(), asyncio.Event()
        commit = store.commit

        async def slow(lease: Lease, writes: Sequence[Write], **options: Any) -> None:
            begun.set()
            await may_go.wait()
            await commit(lease, writes, **options)

        async def change() -> None:
            async with app.faststate.transaction(Shelf) as state:
                state.total = 7

        monkeypatch.setattr(store, "commit", slow)
        changing = asyncio.ensure_future(change())
        async with asyncio.timeout(15):
            await begun.wait()
            changing.cancel()
            await asyncio.wait([changing])
            await asyncio.sleep(0.05)  # time enough to do something rash
            may_go.set()
            async with app.faststate.transaction(Shelf) as state:  # begins when that one is over
                assert state.total == 7
