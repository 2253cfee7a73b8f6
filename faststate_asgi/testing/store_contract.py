"""What every ``Store`` promises, as tests: subclass ``StoreContract`` and give it a fixture ``stores``.

::

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def stores(self):
            async with open_two_of_them() as pair:
                yield pair

``stores`` yields two open stores on the same data, as two processes would have them; a store that is not shared is
given twice. ``lease_s`` is how long a lease lasts in them.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import TypeAlias

import pytest

from ..errors import LeaseLostError, OverloadedError, StoreUnavailableError
from ..keys import StateKey, StateScope
from ..stores.base import NO_VERSION, Answer, Lease, Remember, Store, Write

Stores: TypeAlias = tuple[Store, Store]


def new_key(session_id: str | None = None) -> StateKey:
    """Return a key that nothing else uses."""
    name = f"State{secrets.token_hex(8)}"
    if session_id is not None:
        return StateKey(StateScope.SESSION, name, session_id=session_id)
    return StateKey(StateScope.RECORD, name, record_id="a:b%/é")


def write(key: StateKey, before: str, number: int, data: bytes | None, ttl_s: float | None = None) -> Write:
    """Return a write whose version is made of ``number``."""
    version = NO_VERSION if data is None else f"{number}-{secrets.token_hex(4)}"
    return Write(key, before, version, data, ("n",), "shape", ttl_s)


async def put(store: Store, key: StateKey, data: bytes | None, ttl_s: float | None = None) -> str:
    """Store one state in a turn of its own, and return its version."""
    lease = await store.acquire([key], wait_s=5)
    stored = lease.snapshots[key]
    before = NO_VERSION if stored is None else stored.version
    item = write(key, before, int(before.partition("-")[0]) + 1, data, ttl_s)
    await store.commit(lease, [item], commit_id=secrets.token_hex(8))
    return item.version


class StoreContract:
    """Tests of a store; every one of them runs on every store, unchanged."""

    pytestmark = pytest.mark.anyio
    lease_s = 0.5
    do_leases_expire = True

    async def test_what_was_never_stored_is_none(self, stores: Stores) -> None:
        """Reading stores nothing."""
        key = new_key()
        assert await stores[0].read([key]) == [None]
        assert await stores[1].read([key, key]) == [None, None]

    async def test_a_commit_is_read_by_everybody(self, stores: Stores) -> None:
        """What one process stored, another one reads, byte for byte."""
        key, data = new_key(), '{"n":1,"text":"é\\u2028"}'.encode()
        version = await put(stores[0], key, data)
        for store in stores:
            (found,) = await store.read([key])
            assert found is not None
            assert (found.data, found.version, found.shape) == (data, version, "shape")

    async def test_a_turn_begins_with_what_is_stored(self, stores: Stores) -> None:
        """Lease and load are one call."""
        key = new_key()
        version = await put(stores[0], key, b'{"n":1}')
        lease = await stores[1].acquire([key], wait_s=5)
        snapshot = lease.snapshots[key]
        await stores[1].release(lease)
        assert snapshot is not None
        assert snapshot.version == version

    async def test_a_turn_excludes_others_until_it_is_given_back(self, stores: Stores) -> None:
        """The second taker waits for the first, in another process too."""
        key = new_key()
        first = await stores[0].acquire([key], wait_s=5)
        second = asyncio.ensure_future(stores[1].acquire([key], wait_s=5))
        await asyncio.sleep(0.05)
        assert not second.done()
        await stores[0].release(first)
        await stores[1].release(await second)

    async def test_who_waits_too_long_is_refused_and_nothing_is_held(self, stores: Stores) -> None:
        """A turn that is not free in time is an ``OverloadedError``."""
        key = new_key()
        lease = await self._long_lease(stores[0], key)
        with pytest.raises(OverloadedError):
            await stores[1].acquire([key], wait_s=0.05)
        await stores[0].release(lease)
        await stores[1].release(await stores[1].acquire([key], wait_s=5))

    async def test_programs_that_seed_random_alike_do_not_share_a_turn(self, stores: Stores) -> None:
        """``random.seed(0)`` in each of two workers does not make them the same holder."""
        key, before = new_key(), random.getstate()
        try:
            random.seed(0)
            lease = await stores[0].acquire([key], wait_s=5)
            random.seed(0)
            with pytest.raises(OverloadedError):
                await stores[1].acquire([key], wait_s=0.05)
        finally:
            random.setstate(before)
        await stores[0].release(lease)

    async def _long_lease(self, store: Store, key: StateKey) -> Lease:
        return await store.acquire([key], wait_s=5)

    async def test_the_fence_grows_with_each_lease(self, stores: Stores) -> None:
        """A later holder has a larger fence."""
        key = new_key()
        fences: list[int] = []
        for store in (stores[0], stores[1], stores[0]):
            lease = await store.acquire([key], wait_s=5)
            fences.append(lease.fence)
            await store.release(lease)
        assert fences == sorted(set(fences))

    async def test_a_holder_that_died_is_replaced(self, stores: Stores) -> None:
        """A lease that is not renewed runs out, and what its holder commits then is refused."""
        if not self.do_leases_expire:
            pytest.skip("the store is in this process: its holder cannot die alone")
        key = new_key()
        dead = await stores[0].acquire([key], wait_s=5)
        alive = await stores[1].acquire([key], wait_s=self.lease_s * 20)
        with pytest.raises(LeaseLostError):
            await stores[0].commit(dead, [write(key, NO_VERSION, 1, b"{}")], commit_id=secrets.token_hex(8))
        await stores[0].release(dead)
        await stores[1].commit(alive, [write(key, NO_VERSION, 1, b'{"n":2}')], commit_id=secrets.token_hex(8))
        (found,) = await stores[0].read([key])
        assert found is not None
        assert found.data == b'{"n":2}'

    async def test_a_renewed_lease_lasts(self, stores: Stores) -> None:
        """A long handler keeps its turn by renewing it."""
        key = new_key()
        lease = await stores[0].acquire([key], wait_s=5)
        for _ in range(6):
            await asyncio.sleep(self.lease_s / 3)
            await stores[0].renew(lease)
        with pytest.raises(OverloadedError):
            await stores[1].acquire([key], wait_s=0.05)
        await stores[0].commit(lease, [write(key, NO_VERSION, 1, b"{}")], commit_id=secrets.token_hex(8))

    async def test_renewing_a_lost_lease_says_so(self, stores: Stores) -> None:
        """Renewal fails once somebody else has the turn."""
        if not self.do_leases_expire:
            pytest.skip("the store is in this process: its holder cannot die alone")
        key = new_key()
        lost = await stores[0].acquire([key], wait_s=5)
        held = await stores[1].acquire([key], wait_s=self.lease_s * 20)
        with pytest.raises(LeaseLostError):
            await stores[0].renew(lost)
        await stores[1].release(held)

    async def test_a_stale_version_is_refused_and_nothing_is_changed(self, stores: Stores) -> None:
        """The lease orders, the version protects."""
        key, other = new_key(), new_key()
        await put(stores[0], key, b'{"n":1}')
        lease = await stores[0].acquire(sorted([key, other]), wait_s=5)
        bad = [write(other, NO_VERSION, 1, b"{}"), write(key, "7-deadbeef", 8, b'{"n":9}')]
        with pytest.raises(LeaseLostError):
            await stores[0].commit(lease, bad, commit_id=secrets.token_hex(8))
        await stores[0].release(lease)
        found = await stores[1].read([key, other])
        assert found[0] is not None
        assert (found[0].data, found[1]) == (b'{"n":1}', None)

    async def test_several_states_are_committed_together(self, stores: Stores) -> None:
        """All writes of one commit, or none."""
        keys = sorted([new_key(), new_key(), new_key()])
        lease = await stores[0].acquire(keys, wait_s=5)
        writes = [write(key, NO_VERSION, 1, b'{"n":%d}' % i) for i, key in enumerate(keys)]
        await stores[0].commit(lease, writes, commit_id=secrets.token_hex(8))
        found = await stores[1].read(keys)
        assert [item and item.data for item in found] == [b'{"n":0}', b'{"n":1}', b'{"n":2}']

    async def test_the_same_commit_twice_changes_once(self, stores: Stores) -> None:
        """A commit whose answer was lost is repeated with the same id, even after others have gone on."""
        key, commit_id = new_key(), secrets.token_hex(8)
        lease = await stores[0].acquire([key], wait_s=5)
        item = write(key, NO_VERSION, 1, b'{"n":1}')
        await stores[0].commit(lease, [item], commit_id=commit_id)
        await put(stores[1], key, b'{"n":2}')
        await stores[0].commit(lease, [item], commit_id=commit_id)
        (found,) = await stores[1].read([key])
        assert found is not None
        assert found.data == b'{"n":2}'

    async def test_a_commit_gives_the_turn_back(self, stores: Stores) -> None:
        """Nobody waits for a lease that a commit has ended."""
        key = new_key()
        await put(stores[0], key, b"{}")
        lease = await stores[1].acquire([key], wait_s=0.05)
        await stores[1].release(lease)

    async def test_releasing_twice_or_late_takes_nobodys_turn(self, stores: Stores) -> None:
        """A release compares the holder; it never deletes blindly."""
        key = new_key()
        old = await stores[0].acquire([key], wait_s=5)
        await stores[0].release(old)
        held = await stores[1].acquire([key], wait_s=5)
        await stores[0].release(old)
        with pytest.raises(OverloadedError):
            await stores[0].acquire([key], wait_s=0.05)
        await stores[1].release(held)

    async def test_a_deleted_state_is_as_never_stored(self, stores: Stores) -> None:
        """Deleting is a write without data."""
        key = new_key()
        await put(stores[0], key, b'{"n":1}')
        await put(stores[0], key, None)
        assert await stores[1].read([key]) == [None]
        lease = await stores[1].acquire([key], wait_s=5)
        assert lease.snapshots[key] is None
        await stores[1].release(lease)

    async def test_a_state_expires_after_its_ttl_without_a_write(self, stores: Stores) -> None:
        """Reading does not extend it; afterwards it is as never stored, also for a turn."""
        key, lasting = new_key(), new_key()
        await put(stores[0], key, b'{"n":1}', ttl_s=0.3)
        await put(stores[0], lasting, b'{"n":1}')
        assert (await stores[1].read([key]))[0] is not None
        await asyncio.sleep(0.4)
        found = await stores[1].read([key, lasting])
        assert found[0] is None
        assert found[1] is not None
        await put(stores[1], key, b'{"n":2}', ttl_s=60)
        (again,) = await stores[0].read([key])
        assert again is not None
        assert again.data == b'{"n":2}'

    async def test_touching_keeps_a_watched_state_alive(self, stores: Stores) -> None:
        """An open stream extends the life of what it watches."""
        key = new_key()
        await put(stores[0], key, b'{"n":1}', ttl_s=0.5)
        for _ in range(4):
            await asyncio.sleep(0.2)
            await stores[0].touch([(key, 0.5)])
        assert (await stores[1].read([key]))[0] is not None

    async def test_purging_deletes_what_has_expired_and_nothing_else(self, stores: Stores) -> None:
        """Expired entries go in batches."""
        keep, gone = new_key(), [new_key() for _ in range(5)]
        await put(stores[0], keep, b"{}", ttl_s=60)
        for key in gone:
            await put(stores[0], key, b"{}", ttl_s=0.05)
        await asyncio.sleep(0.1)
        while await stores[0].purge(2):
            pass
        assert (await stores[1].read([keep]))[0] is not None
        assert await stores[1].read(gone) == [None] * 5

    async def test_a_session_is_deleted_with_its_states_only(self, stores: Stores) -> None:
        """Session states go with their session; those in ``keep`` stay."""
        session, other = secrets.token_hex(8), secrets.token_hex(8)
        mine, kept, foreign = new_key(session), new_key(session), new_key(other)
        for key in (mine, kept, foreign):
            await put(stores[0], key, b"{}")
        deleted = await stores[1].delete_session(session, keep=[kept])
        assert deleted == [mine]
        found = await stores[0].read([mine, kept, foreign])
        assert [item is None for item in found] == [True, False, False]

    async def test_an_answer_is_committed_with_its_event(self, stores: Stores) -> None:
        """The answer of an idempotency key is there exactly if the change is."""
        key, name = new_key(), secrets.token_hex(8)
        answer = Answer(b"digest", 200, ((b"content-type", b"text/event-stream"),), b"body \xc3\xa9\n")
        item = Remember((name, f"{name}b"), answer, 60, "owner")
        lease = await stores[0].acquire([key], wait_s=5)
        bad = write(key, "7-deadbeef", 8, b"{}")
        with pytest.raises(LeaseLostError):
            await stores[0].commit(lease, [bad], commit_id=secrets.token_hex(8), remember=[item])
        assert await stores[1].recall([name]) is None
        good = write(key, NO_VERSION, 1, b"{}")
        await stores[0].commit(lease, [good], commit_id=secrets.token_hex(8), remember=[item])
        assert await stores[1].recall(["unknown", name]) == answer
        assert await stores[1].recall([f"{name}b"]) == answer

    async def test_an_answer_is_forgotten_after_its_time(self, stores: Stores) -> None:
        """Also one without a change."""
        name = secrets.token_hex(8)
        await stores[0].remember([Remember((name,), Answer(b"d", 204), 0.2)])
        assert await stores[1].recall([name]) == Answer(b"d", 204)
        await asyncio.sleep(0.3)
        assert await stores[1].recall([name]) is None

    async def test_an_answer_without_a_body_is_not_an_empty_one(self, stores: Stores) -> None:
        """None means: too large to keep."""
        name = secrets.token_hex(8)
        await stores[0].remember([Remember((name,), Answer(b"d", 200, (), None), 60)])
        assert await stores[1].recall([name]) == Answer(b"d", 200, (), None)

    async def test_a_session_keeps_a_bounded_number_of_answers(self, stores: Stores) -> None:
        """One visitor cannot fill the store: the oldest of a thousand go first."""
        owner, names = secrets.token_hex(8), [secrets.token_hex(8) for _ in range(1005)]
        for name in names:
            await stores[0].remember([Remember((name,), Answer(b"d", 204), 60, owner)])
        assert await stores[1].recall([names[0]]) is None
        assert await stores[1].recall([names[-1]]) == Answer(b"d", 204)

    async def test_records_are_stored_together_and_expire(self, stores: Stores) -> None:
        """Sessions and logins are small records."""
        first, second = secrets.token_hex(8), secrets.token_hex(8)
        await stores[0].put_records({first: (b"1", 60), second: (b"2", 0.1)})
        assert await stores[1].get_records([second, first, "none"]) == [b"2", b"1", None]
        await asyncio.sleep(0.2)
        assert await stores[1].get_records([first, second]) == [b"1", None]
        await stores[1].put_records({first: (None, 1)})
        assert await stores[0].get_records([first]) == [None]

    async def test_concurrent_writers_lose_nothing(self, stores: Stores) -> None:
        """Two processes with many turns each: every increment counts."""
        key = new_key()

        async def bump(store: Store) -> None:
            lease = await store.acquire([key], wait_s=30)
            stored = lease.snapshots[key]
            count = int(stored.data) if stored is not None else 0
            before = NO_VERSION if stored is None else stored.version
            await asyncio.sleep(0)
            item = write(key, before, count + 1, str(count + 1).encode())
            await store.commit(lease, [item], commit_id=secrets.token_hex(8))

        async def worker(store: Store) -> None:
            for _ in range(10):
                await bump(store)

        await asyncio.gather(*(worker(store) for store in stores for _ in range(3)))
        (found,) = await stores[0].read([key])
        assert found is not None
        assert found.data == b"60"

    async def test_turns_on_several_keys_in_the_same_order_do_not_lock_each_other(self, stores: Stores) -> None:
        """Keys are taken in canonical order."""
        keys = sorted([new_key(), new_key()])

        async def worker(store: Store) -> None:
            for _ in range(10):
                await store.release(await store.acquire(keys, wait_s=30))

        async with asyncio.timeout(60):
            await asyncio.gather(*(worker(store) for store in stores for _ in range(2)))

    async def test_a_cancelled_wait_holds_nothing(self, stores: Stores) -> None:
        """Who is cancelled while waiting for a turn does not have it."""
        key = new_key()
        lease = await stores[0].acquire([key], wait_s=5)
        waiting = asyncio.ensure_future(stores[1].acquire([key], wait_s=5))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await stores[0].release(lease)
        await stores[0].release(await stores[0].acquire([key], wait_s=self.lease_s * 20))

    async def test_counting_counts_states(self, stores: Stores) -> None:
        """``count`` is for people who run the app."""
        before = await stores[0].count()
        await put(stores[0], new_key(), b"{}")
        assert await stores[0].count() == before + 1

    async def test_an_open_store_answers_a_ping(self, stores: Stores) -> None:
        """Health asks this."""
        await stores[0].ping()

    async def test_a_closed_store_refuses_and_closes_twice(self, stores: Stores) -> None:
        """Nothing hangs on a closed store."""
        await stores[1].aclose()
        await stores[1].aclose()
        with pytest.raises(StoreUnavailableError):
            await stores[1].read([new_key()])
        await stores[1].open()
        assert await stores[1].read([new_key()]) == [None]
