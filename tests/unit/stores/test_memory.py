"""The store in this process keeps what the port promises."""

import asyncio
import logging

import pytest

from faststate_asgi import LeaseLostError, OverloadedError, StateKey, StateScope, StoreUnavailableError
from faststate_asgi.stores.base import Answer, Remember, Write
from faststate_asgi.stores.memory import LARGE_BYTES, STATE_BYTES, MemoryStore

pytestmark = pytest.mark.anyio
KEY, OTHER = StateKey(StateScope.GLOBAL, "A"), StateKey(StateScope.GLOBAL, "B")
MINE = StateKey(StateScope.SESSION, "A", session_id="s")


class Clock:
    """Time that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(clock: Clock) -> MemoryStore:
    made = MemoryStore(max_answers=5, clock=clock)
    await made.open()
    return made


def write(key: StateKey, before: str, version: str, ttl_s: float | None = None) -> Write:
    return Write(key, before, version, version.encode(), ttl_s=ttl_s)


async def put(store: MemoryStore, item: Write, commit_id: str) -> None:
    await store.commit(await store.acquire([item.key], wait_s=1), [item], commit_id=commit_id)


async def test_what_was_committed_is_read(store: MemoryStore) -> None:
    await put(store, write(KEY, "0", "1-a"), "a")
    (found, missing) = await store.read([KEY, OTHER])
    assert found is not None
    assert (found.version, found.data, missing) == ("1-a", b"1-a", None)


async def test_the_same_commit_again_changes_nothing(store: MemoryStore) -> None:
    lease = await store.acquire([KEY], wait_s=1)
    await store.commit(lease, [write(KEY, "0", "1-a")], commit_id="a")
    await store.commit(lease, [write(KEY, "0", "1-a")], commit_id="a")
    (found,) = await store.read([KEY])
    assert found is not None
    assert found.version == "1-a"


async def test_all_writes_happen_or_none(store: MemoryStore) -> None:
    await put(store, write(OTHER, "0", "1-a"), "a")
    lease = await store.acquire([KEY, OTHER], wait_s=1)
    answer = Remember(("name",), Answer(b"d", 200), 60)
    with pytest.raises(LeaseLostError):
        await store.commit(lease, [write(KEY, "0", "1-b"), write(OTHER, "0", "1-b")], commit_id="b", remember=[answer])
    assert await store.read([KEY]) == [None]
    assert await store.recall(["name"]) is None


async def test_a_lease_that_was_given_back_commits_nothing(store: MemoryStore) -> None:
    lease = await store.acquire([KEY], wait_s=1)
    await store.release(lease)
    with pytest.raises(LeaseLostError):
        await store.commit(lease, [write(KEY, "0", "1-a")], commit_id="a")
    with pytest.raises(LeaseLostError):
        await store.renew(lease)


async def test_giving_back_twice_takes_nothing_from_the_next(store: MemoryStore) -> None:
    first = await store.acquire([KEY], wait_s=1)
    await store.release(first)
    second = await store.acquire([KEY], wait_s=1)
    await store.release(first)
    await store.renew(second)
    assert second.fence > first.fence


async def test_waiting_for_a_turn_is_fair_and_bounded(store: MemoryStore) -> None:
    first = await store.acquire([KEY], wait_s=1)
    with pytest.raises(OverloadedError):
        await store.acquire([KEY], wait_s=0.01)
    order: list[int] = []

    async def enter(number: int) -> None:
        lease = await store.acquire([KEY], wait_s=5)
        order.append(number)
        await store.release(lease)

    waiting = [asyncio.create_task(enter(number)) for number in range(5)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await store.release(first)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [0, 2, 3, 4]


async def test_what_expired_was_never_stored(store: MemoryStore, clock: Clock) -> None:
    await put(store, write(KEY, "0", "1-a", 10), "a")
    clock.now = 9
    await store.touch([(KEY, 10)])
    clock.now = 18
    assert (await store.read([KEY]))[0] is not None
    clock.now = 19
    assert await store.read([KEY]) == [None]
    await put(store, write(KEY, "0", "1-b", 10), "b")
    clock.now = 100
    assert await store.purge(10) == 1
    assert await store.count() == 0


async def test_a_session_takes_its_states_with_it(store: MemoryStore) -> None:
    await put(store, write(MINE, "0", "1-a"), "a")
    await put(store, write(KEY, "0", "1-b"), "b")
    assert await store.delete_session("s") == [MINE]
    assert await store.delete_session("s") == []
    assert await store.count() == 1


async def test_answers_are_bounded_and_forgotten(store: MemoryStore, clock: Clock) -> None:
    for number in range(8):
        await store.remember([Remember((f"n{number}",), Answer(b"d", 200), 60, "owner")])
    assert await store.recall(["n0", "n2"]) is None
    assert await store.recall(["missing", "n7"]) == Answer(b"d", 200)
    clock.now = 61
    assert await store.recall(["n7"]) is None
    await store.purge(100)
    assert not store._owners


@pytest.mark.parametrize("ids", [20_000, pytest.param(1_000_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("owners", [7, 1_000_000], ids=["few sessions", "a session each"])
async def test_r43_a_million_ids_take_bounded_memory(clock: Clock, ids: int, owners: int) -> None:
    store = MemoryStore(max_answers=2000, clock=clock)
    for number in range(ids):
        owner = f"owner{number % owners}"
        await store.remember([Remember((f"n{number}",), Answer(b"d", 200, (), b"x" * 100), 600, owner)])
        if number % 1000 == 0:
            assert len(store._answers) <= 2000
            assert sum(map(len, store._owners.values())) <= 2 * 2000 + 1000 * 7
            assert len(store._owners) <= 2 * 2000 + 1
    assert await store.recall([f"n{ids - 1}"]) is not None
    assert await store.recall(["n0"]) is None
    clock.now = 601
    await store.purge(10_000)
    assert (len(store._answers), len(store._owners)) == (0, 0)


async def test_large_answers_take_bounded_memory_and_their_outcome_stays_known(clock: Clock) -> None:
    store = MemoryStore(clock=clock, max_bytes=10 * LARGE_BYTES)
    small, large = Answer(b"d", 200, (), b"x"), Answer(b"d", 200, (), b"x" * 2 * LARGE_BYTES)
    await store.remember([Remember(("small",), small, 100)])
    for number in range(1000):
        clock.now = number / 100
        await store.remember([Remember((f"n{number}", f"m{number}"), large, 100, f"owner{number}")])
        assert sum(len(entry[4] or b"") for entry in store._answers.values()) <= 2 * 10 * LARGE_BYTES + 1
    assert len(store._bodies) == 5
    for name in ("n994", "m994", "n0"):
        assert await store.recall([name]) == Answer(b"d", 200, (), None)
    for name in ("n995", "m999"):
        assert await store.recall([name]) == large
    assert await store.recall(["small"]) == small
    clock.now = 200
    await store.purge(10)
    assert (len(store._bodies), store._bodies_bytes) == (0, 0)


async def test_records_live_for_their_time(store: MemoryStore, clock: Clock) -> None:
    await store.put_records({"a": (b"1", 10), "b": (b"2", 20)})
    clock.now = 15
    assert await store.get_records(["a", "b", "c"]) == [None, b"2", None]
    await store.put_records({"b": (None, 1)})
    assert await store.get_records(["b"]) == [None]


def of_session(number: int) -> StateKey:
    return StateKey(StateScope.SESSION, "A", session_id=f"s{number:03}")


def full_store(clock: Clock, states: int = 20) -> MemoryStore:
    """Return a store with room for so many states without content."""
    return MemoryStore(clock=clock, max_bytes=states * STATE_BYTES)


def fill(store: MemoryStore, keys: list[StateKey]) -> None:
    store.apply([Write(key, "0", "1-a", b"") for key in keys], ())


async def test_a_full_store_forgets_the_session_states_that_were_written_least_recently(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = full_store(clock)
    sessions = [of_session(number) for number in range(18)]
    fill(store, [*sessions, KEY, StateKey(StateScope.RECORD, "A", record_id="1")])
    fill(store, sessions[:1])
    with caplog.at_level(logging.WARNING, "faststate.stores"):
        fill(store, [of_session(100)])
    assert [key for key in sessions if store.peek(key) is None] == sessions[1:3]
    assert (store.evicted, await store.count()) == (2, 19)
    assert "2 states" in caplog.text
    assert await store.delete_session(sessions[1].session_id or "") == []


async def test_a_million_sessions_take_bounded_memory(clock: Clock) -> None:
    store = full_store(clock, 1000)
    for number in range(20_000):
        fill(store, [StateKey(StateScope.COMPONENT, "A", session_id=str(number), component_id="c")])
        assert await store.count() <= 1000
    assert store.evicted >= 19_000
    assert len(store._sessions) == await store.count()


async def test_watched_and_global_states_stay_in_a_full_store(clock: Clock) -> None:
    store = full_store(clock)
    watched = [of_session(number) for number in range(15)]
    store.is_watched = set(watched).__contains__
    fill(store, [*watched, KEY, OTHER])
    for number in range(100, 200):
        fill(store, [of_session(number)])
        assert store.peek(of_session(number)) is not None, "what was just written is there"
    assert all(store.peek(key) is not None for key in [*watched, KEY, OTHER])
    records = [StateKey(StateScope.RECORD, "A", record_id=str(number)) for number in range(100)]
    fill(store, records)
    assert store.peek(records[0]) is None, "records go when there is nothing else to forget"
    assert store.peek(records[-1]) is not None
    assert await store.count() <= 20


async def test_a_large_state_counts_for_more(clock: Clock) -> None:
    store = full_store(clock)
    store.apply([Write(of_session(0), "0", "1-a", b"x" * 10 * STATE_BYTES)], ())
    fill(store, [of_session(number) for number in range(1, 10)])
    assert store.evicted == 0
    fill(store, [of_session(10)])
    assert store.peek(of_session(0)) is None


async def test_expiry_is_kept_in_bounded_memory_however_often_a_state_comes_and_goes(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    for number in range(5000):
        store.apply([Write(MINE, "0", "1-a", b"", ttl_s=1000), Write(MINE, "1-a", "0", None)], ())
        if number % 100 == 0:
            await store.purge(10)
    assert len(store._due) <= 1200
    store.apply([Write(MINE, "0", "1-a", b"", ttl_s=1000)], ())
    clock.now = 999
    assert await store.purge(10) == 0
    store.apply([Write(MINE, "1-a", "2-a", b"", ttl_s=1000)], ())
    clock.now = 1001
    assert await store.purge(10) == 0
    clock.now = 2000
    assert await store.purge(10) == 1


async def test_a_closed_store_refuses(store: MemoryStore) -> None:
    await store.aclose()
    for call in (store.ping(), store.read([KEY]), store.acquire([KEY], wait_s=1), store.recall(["a"])):
        with pytest.raises(StoreUnavailableError):
            await call


async def test_answers_under_two_names_each_are_bounded_too() -> None:
    store = MemoryStore(max_answers=10)
    for number in range(50):
        answer = Answer(b"%d" % number, 200)
        await store.remember([Remember((f"new:{number}", f"old:{number}"), answer, 60.0)])
    names = [f"{kind}:{number}" for number in range(50) for kind in ("new", "old")]
    assert list(store.recall_all_now(names)) == names[-10:]
