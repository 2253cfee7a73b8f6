"""``Session`` and ``AsyncSession`` of events: the user's rows are committed with the state, or not at all."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from faststate_asgi import (
    ConfigurationError,
    FastState,
    FastStateMiddleware,
    StateKey,
    StateRegistry,
    StateScope,
    StoreUnavailableError,
)
from faststate_asgi.stores.base import Write
from faststate_asgi.stores.runners import Operation, sqlite_engine
from faststate_asgi.stores.sessions import ThreadedSession
from faststate_asgi.stores.sql import SqlStore
from faststate_asgi.testing import FastStateClient
from faststate_asgi.testing.client import Answer
from tests.apps.session_site import Elsewhere, Till, gate, make_app, make_registry
from tests.apps.shared_clients import new_client, post, serve_many, settings_of
from tests.apps.table_site import Foreign
from tests.conftest import Serve

pytestmark = pytest.mark.anyio
KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
FEWER = ["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.full])]
SQLITE_TABLE = "CREATE TABLE receipt (id INTEGER PRIMARY KEY, text VARCHAR NOT NULL UNIQUE)"
POSTGRES_TABLE = "CREATE TABLE receipt (id SERIAL PRIMARY KEY, text VARCHAR NOT NULL UNIQUE)"


class Shop:
    """The site, a visitor, and another program on the same database."""

    def __init__(self, app: FastStateMiddleware, client: FastStateClient, foreign: Foreign) -> None:
        self.app, self.client, self.foreign = app, client, foreign

    async def call(self, name: str, **arguments: object) -> Answer:
        """Call an event as a client that is not Datastar."""
        path = name if "/" in name else f"Till/{name}"
        return await self.client.post(f"/faststate/events/{path}", json=arguments)

    async def rows(self) -> list[str]:
        """Return the texts of all receipts."""
        return sorted(row[0] for row in await self.foreign.run("SELECT text FROM receipt"))

    async def count(self, cls: type[Till] = Till) -> int:
        """Return what the till counts."""
        return (await self.app.faststate.get(cls)).count


async def opened(url: str, **settings: object) -> AsyncIterator[Shop]:
    """Yield the site with the table of receipts."""
    gate.clear()
    app = make_app(**{"store": url, "lease": 1.0, "store_timeout": 1.0, **settings})
    foreign = Foreign(url)
    async with FastStateClient(app) as client:
        await client.get("/")
        await foreign.run(SQLITE_TABLE if url.startswith("sqlite") else POSTGRES_TABLE)
        yield Shop(app, client, foreign)
        gate.opened.set()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/sessions.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def shop(url: str) -> AsyncIterator[Shop]:
    """The site on a database of each kind."""
    async for shop in opened(url):
        yield shop


EVERY = ["add", "add_async", "add_plain", "add_plain_async", "add_by_habit", "add_by_habit_async"]


async def test_rows_and_state_are_committed_together_by_every_kind_of_session(shop: Shop) -> None:
    for number, name in enumerate(EVERY, 1):
        answer = await shop.call(name, text=name)
        assert (answer.status, answer.signals) == (200, {"Till": {"count": number}}), answer.text
    assert await shop.rows() == sorted(EVERY)
    assert await shop.count() == len(EVERY)


async def test_what_the_database_refuses_changes_neither_rows_nor_state(shop: Shop) -> None:
    await shop.call("add", text="taken")
    for name in EVERY:
        answer = await shop.call(name, text="taken")
        assert answer.status == 409, (name, answer.text)
    assert (await shop.rows(), await shop.count()) == (["taken"], 1)
    assert (await shop.call("add_async", text="free")).status == 200


async def test_an_error_of_the_database_tells_the_log_no_values(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    await shop.foreign.run("DROP TABLE receipt")
    for name in ("add", "add_async"):
        assert (await shop.call(name, text="4000 0012 3456 7899")).status == 500
    assert "INSERT INTO receipt" in caplog.text
    assert "4000 0012" not in caplog.text


async def test_a_handler_that_fails_after_its_own_commit_leaves_no_row(shop: Shop) -> None:
    for name in ("add_by_habit", "add_by_habit_async"):
        assert (await shop.call(name, text=f"bad {name}")).status == 500
    assert (await shop.rows(), await shop.count()) == ([], 0)


async def test_rollback_and_savepoints_undo_what_they_should(shop: Shop) -> None:
    assert (await shop.call("try_twice", text="a")).status == 200
    assert (await shop.rows(), await shop.count()) == (["a (second)"], 1)


async def test_rows_alone_reading_alone_and_nothing_at_all(shop: Shop) -> None:
    assert (await shop.call("only_rows", text="a")).status == 204
    assert (await shop.call("look")).signals == {"Till": {"count": 1}}
    assert (await shop.call("untouched")).signals == {"Till": {"count": 2}}
    assert await shop.rows() == ["a"]


async def test_a_repeated_click_writes_its_row_once(shop: Shop) -> None:
    for name in ("add", "add_async"):
        answers = [
            await shop.client.post(
                f"/faststate/events/Till/{name}", json={"text": name}, headers={"idempotency-key": "click"}
            )
            for _ in range(3)
        ]
        assert {answer.text for answer in answers} == {answers[0].text}
    assert (await shop.rows(), await shop.count()) == (["add", "add_async"], 2)


async def test_a_generator_commits_rows_and_state_at_each_yield(shop: Shop) -> None:
    await shop.call("steps", text="s")
    assert (await shop.rows(), await shop.count()) == (["s 0", "s 1", "s 2"], 3)
    await shop.call("steps_async", text="a")
    assert (await shop.rows(), await shop.count()) == (["a 1", "a changed", "s 0", "s 1", "s 2"], 5)


async def test_nothing_is_held_before_the_handler_uses_its_session(shop: Shop) -> None:
    """On SQLite a transaction of ours would stop every other writer; on PostgreSQL it would be seen."""
    waiting = asyncio.create_task(shop.call("wait_and_add", text="late"))
    await gate.until_reached()
    for number in range(3):
        assert (await shop.call("Drawer/add?record_id=1", text=f"other {number}")).status == 200
    await until_idle(shop)
    gate.opened.set()
    assert (await waiting).status == 200
    assert "late" in await shop.rows()


async def test_who_has_only_read_stops_nobody_and_can_write_afterwards(shop: Shop) -> None:
    waiting = asyncio.create_task(shop.call("read_wait_and_add", text="late"))
    await gate.until_reached()
    assert (await shop.call("Drawer/add?record_id=1", text="other")).status == 200
    gate.opened.set()
    assert (await waiting).status == 200
    assert await shop.rows() == ["late", "other"]


@pytest.mark.parametrize("name", ["add_and_wait", "add_and_wait_async"])
async def test_two_events_with_sessions_wait_or_are_refused_and_never_lock_each_other(shop: Shop, name: str) -> None:
    first = asyncio.create_task(shop.call(f"Drawer/{name}?record_id=1", text="one"))
    await gate.until_reached()
    second = asyncio.create_task(shop.call(f"Drawer/{name}?record_id=2", text="two"))
    done, _ = await asyncio.wait({second}, timeout=0.3)
    assert not done
    await asyncio.sleep(1.5)  # longer than SQLite's lock is waited for
    gate.opened.set()
    answers = [await first, await second]
    assert answers[0].status == 200
    assert answers[1].status in (200, 503)
    if answers[1].status == 503:
        assert "retry-after" in answers[1].headers
    assert await shop.rows() == ["one", "two"][: 1 + (answers[1].status == 200)]
    assert (await shop.call("Drawer/add?record_id=2", text="three")).status == 200


async def test_of_two_events_that_would_wait_for_each_others_rows_one_is_refused(shop: Shop) -> None:
    for text in ("a", "b"):
        await shop.call("only_rows", text=text)
    first = asyncio.create_task(shop.call("Drawer/cross?record_id=1", first="a", second="b"))
    await gate.until_reached()
    second = asyncio.create_task(shop.call("Drawer/cross?record_id=2", first="b", second="a"))
    if not shop.foreign.is_sqlite:  # which lets only one of them begin
        await gate.until_reached()
    gate.opened.set()
    answers = [await first, await second]
    statuses = sorted(answer.status for answer in answers)
    assert statuses == ([200, 200] if shop.foreign.is_sqlite else [200, 503])
    marks = statuses.count(200) * "!"
    assert await shop.rows() == [f"a{marks}", f"b{marks}"]


async def test_a_state_that_was_taken_by_another_process_takes_the_rows_with_it(shop: Shop) -> None:
    """The lease is stolen while the handler runs, as after a long pause of the process."""
    waiting = asyncio.create_task(shop.call("wait_and_add", text="late"))
    await gate.until_reached()
    await shop.foreign.run("UPDATE faststate_lease SET holder = 'thief'")
    gate.opened.set()
    assert (await waiting).status == 409
    assert (await shop.rows(), await shop.count()) == ([], 0)
    await shop.foreign.run("UPDATE faststate_lease SET expires_at = 0")
    assert (await shop.call("add", text="again")).status == 200


@pytest.mark.filterwarnings("ignore:transaction already deassociated")  # of the handler that goes on in vain
@pytest.mark.parametrize("name", ["too_long", "too_long_async"])
async def test_an_event_whose_time_is_over_leaves_no_row_and_no_lock(shop: Shop, name: str) -> None:
    assert (await shop.call(name, text="slow")).status == 504
    assert (await shop.call("add", text="other")).status == 200
    gate.opened.set()
    if name == "too_long":
        await gate.until_reached()
        await gate.until_reached()
    assert (await shop.call("add_async", text="third")).status == 200
    gc.collect()  # an exception that nobody took would be reported now
    assert (await shop.rows(), await shop.count()) == (["other", "third"], 2)
    await until_idle(shop)


async def test_many_events_with_sessions_count_exactly(shop: Shop) -> None:
    async def click(number: int) -> None:
        for turn in range(5):
            name = ("add", "add_async")[turn % 2]
            answer = await shop.call(name, text=f"{number} {turn}")
            assert answer.status == 200, answer.text

    await asyncio.gather(*(click(number) for number in range(6)))
    assert (len(await shop.rows()), await shop.count()) == (30, 30)
    await until_idle(shop)


async def until_idle(shop: Shop) -> None:
    """Wait until no connection is in a transaction; those of the housekeeping may be, for a moment."""
    async with asyncio.timeout(10):
        while await busy_connections(shop):
            await asyncio.sleep(0.05)


async def busy_connections(shop: Shop) -> int:
    """Return how many connections are in a transaction of ours; on SQLite whether one keeps others from writing."""
    if not shop.foreign.is_sqlite:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state LIKE 'idle in transaction%'"
        )
        ((count,),) = await shop.foreign.run(query)
        return int(count)
    await shop.foreign.run("DELETE FROM receipt WHERE id < 0")
    return 0


async def test_where_the_state_lives_elsewhere_the_session_is_committed_after_it(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/sessions.db"
    async for shop in opened(url, with_memory=True):
        assert (await shop.call("Elsewhere/add", text="a")).status == 200
        assert (await shop.call("Elsewhere/add_async", text="b")).status == 200
        assert (await shop.call("Elsewhere/add_async", text="b")).status == 409
        assert (await shop.call("Elsewhere/add_by_habit", text="bad")).status == 500
        assert (await shop.rows(), await shop.count(Elsewhere)) == (["a", "b"], 2)


async def test_an_event_that_asks_for_a_session_without_a_database_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match=r"Till\.add asks for a database session"):
        async with make_app(store="memory:").faststate:
            pass


async def test_an_async_session_without_its_driver_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store itself does without aiosqlite."""

    def hidden(name: str) -> object:
        return None if name == "aiosqlite" else find_spec(name)

    monkeypatch.setattr("faststate_asgi.stores.sessions.find_spec", hidden)
    with pytest.raises(ConfigurationError, match=r"pip install 'faststate-asgi\[sqlite\]'"):
        async with make_app(store=f"sqlite+aiosqlite:///{tmp_path}/x.db").faststate:
            pass
    async with FastState(registry=StateRegistry(), store=f"sqlite+aiosqlite:///{tmp_path}/x.db", debug=True):
        pass


# -- several processes, and the worst moments ------------------------------------------------------------------------


@pytest.mark.parametrize("url", FEWER, indirect=True)
@pytest.mark.parametrize("is_killed", [False, True])
async def test_two_servers_never_have_a_row_without_its_count(serve: Serve, url: str, *, is_killed: bool) -> None:
    """Also if one of them is killed in the middle: what it did not finish is not there at all."""
    sites = await serve_many(serve, 2, settings_of(url, lease=1), app="tests.apps.session_site:app")
    foreign = Foreign(url)
    await foreign.run(SQLITE_TABLE if url.startswith("sqlite") else POSTGRES_TABLE)
    acknowledged: list[str] = []
    enough = asyncio.Event()

    async def click(number: int) -> None:
        async with new_client() as client:
            for turn in range(25):
                text, name = f"{number} {turn}", ("add", "add_async")[turn % 2]
                with suppress(httpx.HTTPError):
                    answer = await post(client, sites[number % 2].url, f"Till/{name}", text=text)
                    if answer.status_code == 200 and "error" not in answer.text:
                        acknowledged.append(text)
                if len(acknowledged) == 20:
                    enough.set()

    clicks = asyncio.gather(*(click(number) for number in range(4)))
    if is_killed:
        await enough.wait()
        sites[0].kill()
    await clicks
    rows = {row[0] for row in await foreign.run("SELECT text FROM receipt")}
    async with FastState(registry=make_registry(), store=url) as engine:
        count = (await engine.get(Till)).count
    assert len(rows) == count
    assert set(acknowledged) <= rows
    assert is_killed or len(rows) == 100


class LostAnswer(ThreadedSession):
    """Its connection breaks before or after the commit has happened."""

    breaks_before = False

    async def commit(self, operation: Operation[None] | None = None) -> None:
        """Break."""
        if not self.breaks_before:
            await super().commit(operation)
        raise OSError("the connection was lost")


async def test_a_commit_whose_answer_was_lost_is_looked_up(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/x.db"
    store = SqlStore(url, lease_s=5, timeout_s=2, creates_tables=True)
    await store.open()
    key = StateKey(StateScope.GLOBAL, "Till")
    engine = sqlite_engine(f"sqlite:///{tmp_path}/x.db", 2)
    for number, breaks_before in enumerate((False, True), 1):
        session = LostAnswer(store, engine, 2)
        session.breaks_before = breaks_before
        lease = await store.acquire([key], wait_s=5)
        before = lease.snapshots[key]
        item = Write(key, "0" if before is None else before.version, f"{number}-{number:08x}", b'{"count":%d}' % number)
        if breaks_before:
            with pytest.raises(StoreUnavailableError):
                await session.commit_with(lease, [item], commit_id=f"id{number}")
            # It can no longer happen either: its id is taken.
            await store.commit(lease, [item], commit_id=f"id{number}")
        else:
            await session.commit_with(lease, [item], commit_id=f"id{number}")
        await store.release(lease)
    (found,) = await store.read([key])
    assert found is not None
    assert found.data == b'{"count":1}'
    engine.dispose()
    await store.aclose()


@pytest.mark.postgres
async def test_a_connection_that_breaks_in_the_handler_changes_nothing(postgres_url: str) -> None:
    async for shop in opened(postgres_url):
        for name in ("add_and_wait", "add_and_wait_async"):
            waiting = asyncio.create_task(shop.call(name, text="lost"))
            await gate.until_reached()
            await shop.foreign.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND state LIKE 'idle in transaction%'"
            )
            gate.opened.set()
            assert (await waiting).status == 503
            gate.clear()
        assert (await shop.rows(), await shop.count()) == ([], 0)
        assert (await shop.call("add", text="again")).status == 200
        assert (await shop.call("add_async", text="and again")).status == 200
