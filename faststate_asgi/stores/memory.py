"""The store in this process: dictionaries, nothing durable, nothing shared, and bounded."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence

from ..errors import LeaseLostError, OverloadedError, StoreUnavailableError
from ..keys import StateKey, StateScope
from .base import NO_VERSION, Answer, ImmediateStore, Lease, Remember, Snapshot, Write

logger = logging.getLogger("faststate.stores")

ANSWERS_PER_OWNER = 1000
LARGE_BYTES = 1024
"""From here on the bodies of answers are counted by their size; smaller ones are bounded by their number."""
MAX_BYTES = 256 << 20
STATE_BYTES = 1000
"""What a state costs besides its JSON: key, snapshot, expiry, its session's entry."""
_OWNED = frozenset({StateScope.SESSION, StateScope.COMPONENT})
_OF_OTHERS = frozenset({StateScope.USER, StateScope.RECORD})


class MemoryStore:
    """Implements ``Store`` for one process; a lease lasts until it is given back.

    Args:
        max_answers: idempotency answers kept; the oldest go first.
        clock: seconds, monotonic.
        max_bytes: what states may take, about. Beyond it the least recently written session and component states go, then
            user and record states; those that a stream watches (``is_watched``) and global ones stay. Answers may take
            as much again; beyond it the oldest lose their bodies, so that a repetition still runs nothing twice.
    """

    name = "memory"
    is_shared = False

    def __init__(
        self, max_answers: int = 200_000, clock: Callable[[], float] = time.monotonic, max_bytes: int = MAX_BYTES
    ) -> None:
        self.immediate: ImmediateStore | None = self
        self.clock = clock
        self._max_answers = max_answers
        self._max_bytes, self._evicts_at, self._size_bytes = max_bytes, max_bytes, 0
        self.is_watched: Callable[[StateKey], bool] = lambda key: False
        self.evicted = 0
        # The least recently written come first.
        self._states: dict[StateKey, Snapshot] = {}
        self._expiry: dict[StateKey, tuple[float, float]] = {}
        # One entry for each expiry, of when it is to be looked at; what was dropped is left in it for a while.
        self._due: list[tuple[float, StateKey]] = []
        self._sessions: dict[str, set[StateKey]] = {}
        self._leases: dict[StateKey, Lease] = {}
        self._freed: dict[StateKey, deque[asyncio.Future[None]]] = {}
        # Flat tuples of atoms: the garbage collector does not look at them again.
        self._answers: OrderedDict[str, tuple[float, bytes, int, tuple[tuple[bytes, bytes], ...], bytes | None]] = (
            OrderedDict()
        )
        self._owners: dict[str, deque[str]] = {}
        self._overflow = 0  # answers that were forgotten for want of room since owners were looked through
        # Answers with a large body, in the order in which they came: when they expire, their names, their size.
        self._bodies: deque[tuple[float, tuple[str, ...], int]] = deque()
        self._bodies_bytes = 0
        self._records: dict[str, tuple[float, bytes]] = {}
        self._commits: OrderedDict[str, None] = OrderedDict()
        self._fence = 0
        self._is_closed = False

    async def open(self) -> None:
        """Accept calls."""
        self._is_closed = False

    async def aclose(self) -> None:
        """Refuse calls; what was stored is kept until the object goes."""
        self._is_closed = True

    async def ping(self) -> None:
        """Raise if closed."""
        self._check_open()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailableError("the memory store is closed", headers={"Retry-After": "1"})

    # -- states ------------------------------------------------------------------------------------------------------

    def peek(self, key: StateKey) -> Snapshot | None:
        """Return what is stored."""
        if self._expiry:
            expiry = self._expiry.get(key)
            if expiry is not None and expiry[0] <= self.clock():
                self._drop(key)
                return None
        return self._states.get(key)

    async def read(self, keys: Sequence[StateKey]) -> list[Snapshot | None]:
        """Return what is stored."""
        self._check_open()
        return [self.peek(key) for key in keys]

    async def acquire(self, keys: Sequence[StateKey], *, wait_s: float, recall: Sequence[str] = ()) -> Lease:
        """Take the turn; others wait in the order in which they came."""
        self._check_open()
        deadline = 0.0
        while (held := next((key for key in keys if key in self._leases), None)) is not None:
            deadline = deadline or self.clock() + wait_s
            await self._wait_until_free(held, deadline)
        self._fence += 1
        snapshots = {key: self.peek(key) for key in keys}
        lease = Lease(tuple(keys), self._fence, "", snapshots, self.recall_all_now(recall))
        for key in keys:
            self._leases[key] = lease
        return lease

    async def _wait_until_free(self, key: StateKey, deadline: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._freed.setdefault(key, deque()).append(waiter)
        try:
            async with asyncio.timeout(max(0.0, deadline - self.clock())):
                await waiter
        except TimeoutError:
            raise OverloadedError("Busy; please try again", headers={"Retry-After": "1"}) from None
        finally:
            queue = self._freed.get(key)
            if queue is not None and waiter in queue:
                queue.remove(waiter)

    async def renew(self, lease: Lease) -> None:
        """Check that the lease is held."""
        self._check_held(lease)

    def _check_held(self, lease: Lease) -> None:
        self._check_open()
        for key in lease.keys:
            if self._leases.get(key) is not lease:
                raise LeaseLostError("The change came too late and was not made; please try again")

    async def commit(
        self,
        lease: Lease,
        writes: Sequence[Write],
        *,
        commit_id: str,
        remember: Sequence[Remember] = (),
        release: bool = True,
    ) -> None:
        """Store all or nothing; nothing here waits, so nothing interleaves."""
        if commit_id in self._commits:
            return
        self._check_held(lease)
        for write in writes:
            stored = self.peek(write.key)
            if (NO_VERSION if stored is None else stored.version) != write.before:
                raise LeaseLostError("The state was changed meanwhile; please try again")
        self.apply(writes, remember)
        self._commits[commit_id] = None
        if len(self._commits) > 1024:
            self._commits.popitem(last=False)
        if release:
            self._free(lease)

    def apply(self, writes: Sequence[Write], remember: Sequence[Remember]) -> None:
        """Store writes and answers at once."""
        self._check_open()
        for write in writes:
            if write.data is None:
                self._drop(write.key)
            else:
                self.put(write.key, Snapshot(write.version, write.data, write.shape), write.ttl_s)
        for item in remember:
            self.keep(item.names, item.answer, item.ttl_s, item.owner)

    def put(self, key: StateKey, snapshot: Snapshot, ttl_s: float | None) -> None:
        """Store one state at once."""
        if self._is_closed:
            self._check_open()
        states = self._states
        old = states.pop(key, None)
        states[key] = snapshot
        if old is None:
            self._size_bytes += len(snapshot[1]) + STATE_BYTES
            if key.session_id is not None and key.scope in _OWNED:
                self._sessions.setdefault(key.session_id, set()).add(key)
        else:
            self._size_bytes += len(snapshot[1]) - len(old[1])
        if ttl_s is not None:
            at = self.clock() + ttl_s
            if key not in self._expiry:
                heapq.heappush(self._due, (at, key))
            self._expiry[key] = (at, ttl_s)
        if self._size_bytes > self._evicts_at:
            self._evict(key)

    def _evict(self, written: StateKey) -> None:
        """Forget what was written least recently, a twentieth of everything at once, and say so."""
        target = self._max_bytes * 19 // 20
        evicted = 0
        for scopes in (_OWNED, _OF_OTHERS):
            goers: list[StateKey] = []
            left_bytes = self._size_bytes
            for key, snapshot in self._states.items():
                if left_bytes <= target:
                    break
                if key != written and key.scope in scopes and not self.is_watched(key):
                    goers.append(key)
                    left_bytes -= len(snapshot.data) + STATE_BYTES
            for key in goers:
                self._drop(key)
            evicted += len(goers)
        # What may not go is not looked at again at every write.
        self._evicts_at = max(self._max_bytes, self._size_bytes + self._max_bytes // 20)
        self.evicted += evicted
        if evicted:
            logger.warning(
                "memory: is full: %d states that were written least recently are forgotten; a database or Redis has room",
                evicted,
            )

    def _drop(self, key: StateKey) -> None:
        old = self._states.pop(key, None)
        if old is not None:
            self._size_bytes -= len(old.data) + STATE_BYTES
        self._expiry.pop(key, None)
        owned = self._sessions.get(key.session_id or "")
        if owned is not None:
            owned.discard(key)
            if not owned:
                del self._sessions[key.session_id or ""]

    async def release(self, lease: Lease) -> None:
        """Give the turn back."""
        if self._leases.get(lease.keys[0]) is lease:
            self._free(lease)

    def _free(self, lease: Lease) -> None:
        for key in lease.keys:
            del self._leases[key]
            if not self._freed:
                continue
            queue = self._freed.get(key)
            while queue:
                waiter = queue.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    break
            if queue is not None and not queue:
                del self._freed[key]

    async def touch(self, keys: Sequence[tuple[StateKey, float]]) -> None:
        """Move expiry to a full ttl from now."""
        now = self.clock()
        for key, ttl_s in keys:
            if key in self._expiry and self.peek(key) is not None:
                self._expiry[key] = (now + ttl_s, ttl_s)

    async def delete_session(self, session_id: str, *, keep: Collection[StateKey] = ()) -> list[StateKey]:
        """Delete what belongs to a session."""
        self._check_open()
        keys = [key for key in self._sessions.get(session_id, ()) if key not in keep]
        for key in keys:
            self._drop(key)
        return keys

    async def count(self) -> int:
        """Return the number of stored states."""
        return len(self._states)

    # -- answers and records -----------------------------------------------------------------------------------------

    async def recall(self, names: Sequence[str]) -> Answer | None:
        """Return a kept answer."""
        return next(iter(self.recall_all_now(names).values()), None)

    async def recall_all(self, names: Sequence[str]) -> dict[str, Answer]:
        """Return kept answers by name."""
        return self.recall_all_now(names)

    def recall_all_now(self, names: Sequence[str]) -> dict[str, Answer]:
        """Return kept answers by name."""
        if self._is_closed:
            self._check_open()
        found: dict[str, Answer] = {}
        for name in names:
            entry = self._answers.get(name)
            if entry is not None and entry[0] > self.clock():
                found[name] = Answer(*entry[1:])
        return found

    async def remember(self, items: Sequence[Remember]) -> None:
        """Keep answers."""
        self.apply((), items)

    def keep(self, names: Sequence[str], answer: Answer, ttl_s: float, owner: str) -> None:
        """Keep one answer at once."""
        answers, body, expires_at = self._answers, answer[3], self.clock() + ttl_s
        entry = (expires_at, answer[0], answer[1], answer[2], body)
        if owner:
            owned = self._owners.get(owner)
            if owned is None:
                owned = self._owners[owner] = deque()
            owned += names
            while len(owned) > ANSWERS_PER_OWNER:
                answers.pop(owned.popleft(), None)
        for name in names:
            answers[name] = entry
        while len(answers) > self._max_answers:
            answers.popitem(last=False)
            self._overflow += 1
            if self._overflow > self._max_answers:
                self._forget_owners()
        if body is not None and len(body) >= LARGE_BYTES:
            self._bodies.append((expires_at, tuple(names), len(body)))
            self._bodies_bytes += len(body)
            while self._bodies_bytes > self._max_bytes:
                self._drop_oldest_body()

    def _drop_oldest_body(self) -> None:
        """Keep only the outcome of the oldest large answer."""
        _, names, size_bytes = self._bodies.popleft()
        self._bodies_bytes -= size_bytes
        for name in names:
            entry = self._answers.get(name)
            if entry is not None:
                self._answers[name] = (*entry[:4], None)

    async def get_records(self, names: Sequence[str]) -> list[bytes | None]:
        """Return records that have not expired."""
        return self.records_now(names)

    def records_now(self, names: Sequence[str]) -> list[bytes | None]:
        """Return records that have not expired."""
        if self._is_closed:
            self._check_open()
        if not self._records:
            return [None] * len(names)
        now = self.clock()
        found = [self._records.get(name) for name in names]
        return [None if entry is None or entry[0] <= now else entry[1] for entry in found]

    async def put_records(self, records: Mapping[str, tuple[bytes | None, float]]) -> None:
        """Store records."""
        self._check_open()
        now = self.clock()
        for name, (value, ttl_s) in records.items():
            if value is None:
                self._records.pop(name, None)
            else:
                self._records[name] = (now + ttl_s, value)

    async def purge(self, limit: int) -> int:
        """Delete expired states, answers and records."""
        now = self.clock()
        states = self._drop_expired(now, limit)
        records = [name for name, (at, _) in self._records.items() if at <= now][: limit - states]
        for name in records:
            del self._records[name]
        while self._bodies and self._bodies[0][0] <= now:
            self._drop_oldest_body()
        answers = 0
        while self._answers and answers < limit and next(iter(self._answers.values()))[0] <= now:
            self._answers.popitem(last=False)
            answers += 1
        if answers:
            self._forget_owners()
        return states + len(records) + answers

    def _drop_expired(self, now: float, limit: int) -> int:
        """Drop states whose time is over; those that were written or watched since are looked at again later."""
        dropped = 0
        while self._due and self._due[0][0] <= now and dropped < limit:
            _, key = heapq.heappop(self._due)
            expiry = self._expiry.get(key)
            if expiry is None:
                continue
            if expiry[0] > now:
                heapq.heappush(self._due, (expiry[0], key))
            else:
                self._drop(key)
                dropped += 1
        if len(self._due) > 2 * len(self._expiry) + 1000:
            self._due = [(at, key) for key, (at, _) in self._expiry.items()]
            heapq.heapify(self._due)
        return dropped

    def _forget_owners(self) -> None:
        """Forget who had answers that are gone; the oldest ones go first, here as there."""
        self._overflow = 0
        for owner, kept in list(self._owners.items()):
            while kept and kept[0] not in self._answers:
                kept.popleft()
            if not kept:
                del self._owners[owner]
