"""Turns: load, change, commit. Who may take one waits in ``mailboxes.py``; beyond the process a lease of the store decides."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from pydantic import ValidationError

from .bonds import Bond, bind, bond_of, bonded
from .codec import NOTHING_KNOWN
from .errors import (
    ConfigurationError,
    InvalidStateError,
    LeaseLostError,
    NestedTurnError,
    StateNotFoundError,
    StoreUnavailableError,
)
from .keys import StateKey, StateScope, loggable
from .mailboxes import Mailboxes
from .patches import Json
from .plans import StatePlan
from .spares import Spares
from .state import ReactiveState
from .stores.base import NO_VERSION, DatabaseSession, ImmediateStore, Lease, Remember, Snapshot, Store, Write
from .updates import Update, make_update

_OF_SESSIONS = frozenset({StateScope.SESSION, StateScope.COMPONENT})


_ids = random.Random()
"""A generator of our own, from the system's randomness: programs seed that of ``random``, in several processes alike."""
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_ids.seed)


def new_commit_id() -> str:
    """Return 64 random bits."""
    return f"{_ids.getrandbits(64):016x}"


def next_version(before: str, commit_id: str) -> str:
    """Return the version that follows ``before`` in the commit ``commit_id``."""
    return f"{int(before.partition('-')[0]) + 1}-{commit_id[:8]}"


class Entry:
    """One state in a turn: as it was loaded, and the private copy that handlers change.

    Args:
        plan: the class.
        key: which.
        version: that was loaded.
        data: that was stored, None if nothing was.
        state: the private copy, bound.
        before: the same as ``data`` in the form of today's class.
    """

    is_blank = False
    """Whether nothing was stored and there is no default."""
    extra: dict[str, Json] | None = None
    """Stored fields that the class does not know."""

    @property
    def shape(self) -> str:
        """What marks its snapshots: fields that the class does not know are there to be found again."""
        return f"{self.plan.shape}+" if self.extra else self.plan.shape

    def __init__(
        self, plan: StatePlan, key: StateKey, version: str, data: bytes | None, state: ReactiveState, before: bytes
    ) -> None:
        self.plan = plan
        self.key = key
        self.version = version
        self.data = data
        self.state = state
        self.before = before
        self.values: dict[str, Any] = state.__dict__.copy()


# As factories ``list[Update]`` and ``list[Write]`` would cost more than the lists themselves, at every event.
class Prepared:
    """What a turn is about to commit: everything that could fail has not."""

    __slots__ = ("commit_id", "updates", "writes")

    def __init__(self, commit_id: str) -> None:
        self.commit_id = commit_id
        self.updates: list[Update] = []
        self.writes: list[Write] = []


def _unstored(plan: StatePlan, key: StateKey, *, may_create: bool) -> Entry:
    """Return a state that was never stored as a turn works on it."""
    if not plan.has_default and (not may_create or plan.must_exist):
        raise StateNotFoundError(f"{plan.name} does not exist")
    state = plan.new(key)
    before = b"" if not plan.has_default or plan.codec.is_all_plain else plan.codec.dump(state)
    bind(state, Bond(key, NO_VERSION, plan.namespace))
    entry = Entry(plan, key, NO_VERSION, None, state, before)
    entry.is_blank = not plan.has_default
    return entry


def _of_other_shape(plan: StatePlan, key: StateKey, snapshot: Snapshot) -> Entry:
    """Return a state that an older or newer class has stored as a turn works on it."""
    state, extra = plan.loaded(snapshot.data, snapshot.shape)
    bind(state, Bond(key, snapshot.version, plan.namespace))
    entry = Entry(plan, key, snapshot.version, snapshot.data, state, plan.codec.dump(state, extra))
    entry.extra = extra
    return entry


class Turn:
    """The right to change some keys, from ``Turns.take`` until ``release``.

    Args:
        owner: made it.
        keys: in canonical order.
        store: where all of them live.
        snapshots: what is stored of each key; None for what is not.
    """

    # One is taken for every event: what most of them do not have is a default of the class.
    lease: Lease | None = None
    session: DatabaseSession | None = None
    is_active = True
    holder: asyncio.Task[Any] | int | None = None
    """The task or thread whose transactions take part in it; None while a handler has not had to wait."""

    def __init__(
        self, owner: Turns, keys: tuple[StateKey, ...], store: Store, snapshots: Mapping[StateKey, Snapshot | None]
    ) -> None:
        self._owner = owner
        self.keys = keys
        self.store = store
        self.snapshots = snapshots
        self.entries: dict[StateKey, Entry] = {}

    def load(self, plan: StatePlan, key: StateKey, may_create: bool = False) -> Entry:
        """Make the private copy of one state.

        Raises:
            StateNotFoundError: it was never stored and has required fields.
            StoreUnavailableError: what is stored cannot be read.
        """
        snapshot = self.snapshots[key]
        if snapshot is None:
            entry = _unstored(plan, key, may_create=may_create)
        else:
            version, data, shape = snapshot
            if shape == plan.shape:
                spares = self._owner.spares
                spare = spares.take(key, data) if spares.kept else None
                try:
                    state = plan.codec.load(data) if spare is None else spare
                except ValidationError as exc:
                    raise plan.unreadable(exc) from None
                bind(state, Bond(key, version, plan.namespace))
                entry = Entry(plan, key, version, data, state, data)
            else:
                entry = _of_other_shape(plan, key, snapshot)
        self.entries[key] = entry
        return entry

    def load_or_blank(self, plan: StatePlan, key: StateKey, may_create: bool = False) -> Entry:
        """Do what ``load`` does, with a new state for one that cannot be read; to delete it."""
        try:
            return self.load(plan, key, may_create)
        except StoreUnavailableError:
            snapshot = self.snapshots[key]
            assert snapshot is not None, "what was never stored is read"
            state = plan.new(key)
            bind(state, Bond(key, snapshot.version, plan.namespace))
            entry = self.entries[key] = Entry(plan, key, snapshot.version, snapshot.data, state, b"")
            return entry

    def prepare(self) -> Prepared:
        """Return what changed, validated and encoded, ready to be committed.

        Raises:
            InvalidStateError: a value that its field, or a page, refuses; or a fragment that is none.
        """
        prepared = Prepared(new_commit_id())
        for entry in self.entries.values():
            update = self._owner.change_of(entry, prepared.commit_id)
            if update is not None:
                prepared.updates.append(update)
                prepared.writes.append(self._owner.write_of(entry, update))
        return prepared

    async def commit(self, prepared: Prepared, remember: Sequence[Remember] = ()) -> None:
        """Store everything at once and tell the pages; the turn is given back."""
        if self.session is not None and self.session.is_used:
            await self._commit_with(self.session, prepared, remember)
            return
        if self.store.immediate is not None:
            self.commit_now(self.store.immediate, prepared, remember)
            return
        assert self.lease is not None, "commit() belongs inside the turn"
        lease = self.lease
        if prepared.writes:
            await self.store.commit(lease, prepared.writes, commit_id=prepared.commit_id, remember=remember)
            self._owner.forget(lease)
            self.lease = None
        elif remember:
            await self.store.remember(remember)
        if prepared.updates:
            self._owner.announce(prepared.updates)
        await self.release()

    async def _commit_with(self, session: DatabaseSession, prepared: Prepared, remember: Sequence[Remember]) -> None:
        """Commit the handler's database session too: in one transaction if the states live there.

        Else its rows were accepted by the database before the states are committed, and are committed right after: a
        process that dies in between loses the rows.
        """
        if session.store is self.store and self.lease is not None:
            await session.commit_with(self.lease, prepared.writes, commit_id=prepared.commit_id, remember=remember)
            self._owner.forget(self.lease)
            self.lease = None
            if prepared.updates:
                self._owner.announce(prepared.updates)
            await self.release()
            return
        await session.flush()
        self.session = None
        try:
            await self.commit(prepared, remember)
            await session.commit_alone()
        finally:
            await session.end()

    def commit_now(self, store: ImmediateStore, prepared: Prepared, remember: Sequence[Remember] = ()) -> None:
        """Do what ``commit`` does where nothing waits."""
        assert self.is_active, "commit() belongs inside the turn"
        store.apply(prepared.writes, remember)
        if prepared.updates:
            self._owner.announce(prepared.updates)
        self.release_now()

    def close(self) -> None:
        """Make its copies read-only: what they would take now is not committed any more."""
        for entry in self.entries.values():
            bonded(entry.state).read_only = True

    def release_now(self) -> None:
        """Do what ``release`` does where nothing waits."""
        if self.is_active:
            self.is_active = False
            mailboxes = self._owner.mailboxes
            for key in self.keys:
                if mailboxes.boxes[key] is None:
                    del mailboxes.boxes[key]
                else:
                    mailboxes.leave(key)

    async def release(self) -> None:
        """Give the turn back, without a change if nothing was committed; idempotent."""
        if not self.is_active:
            return
        self.is_active = False
        lease, self.lease = self.lease, None
        try:
            if self.session is not None:
                await self.session.end()
            if lease is not None:
                self._owner.forget(lease)
                await self.store.release(lease)
        finally:
            for key in self.keys:
                self._owner.mailboxes.leave(key)


current_turn: ContextVar[Turn | None] = ContextVar("faststate_turn", default=None)
"""The turn that the running handler holds; tasks that it starts inherit it, so ``is_active`` is asked too."""


def delete_held(session_id: str) -> list[StateKey]:
    """Mark the states of a session that the running turn holds for deletion, and return their keys."""
    turn = current_turn.get()
    if turn is None or not turn.is_active:
        return []
    held = [entry for key, entry in turn.entries.items() if key.session_id == session_id]
    for entry in held:
        entry.state.delete()
    return [entry.key for entry in held]


class Turns:
    """Gives out turns.

    Args:
        store_of: the store of a class.
        max_waiting: how many may wait for one key.
        announce: is told of committed updates.
        session_s: how long a session lasts at most; its states without a ttl go then.
    """

    def __init__(
        self,
        store_of: Callable[[StatePlan], Store],
        max_waiting: int,
        announce: Callable[[Sequence[Update]], None],
        session_s: float | None = None,
    ) -> None:
        self._session_s = session_s
        self._ttls: dict[int, tuple[StatePlan, float | None]] = {}
        self.store_of = store_of
        self.announce = announce
        self._leased: dict[int, tuple[Lease, Store]] = {}
        self.mailboxes = Mailboxes(max_waiting)
        self.spares = Spares()

    async def take(self, wanted: Sequence[tuple[StatePlan, StateKey]], wait_s: float) -> Turn:
        """Wait for the turn on all keys and load what is stored.

        Raises:
            NestedTurnError: the caller holds a turn already.
            OverloadedError: it did not come in time; nothing has run.
        """
        self.refuse_nested(wanted)
        store = self.common_store(wanted)
        keys = (wanted[0][1],) if len(wanted) == 1 else tuple(sorted({key for _, key in wanted}))
        if store.immediate is not None:
            return await self._take_here(keys, store, wait_s)
        entered: list[StateKey] = []
        try:
            for key in keys:
                if not self.mailboxes.try_enter(key):
                    await self.mailboxes.enter(key, wait_s)
                entered.append(key)
            lease = await store.acquire(keys, wait_s=wait_s)
            turn = Turn(self, keys, store, lease.snapshots)
            turn.lease = lease
            self.hold(lease, store)
        except BaseException:
            for key in entered:
                self.mailboxes.leave(key)
            raise
        return turn

    async def _take_here(self, keys: tuple[StateKey, ...], store: Store, wait_s: float) -> Turn:
        """Take a turn in this process's own memory: the queue alone is the turn."""
        entered: list[StateKey] = []
        try:
            for key in keys:
                if not self.mailboxes.try_enter(key):
                    await self.mailboxes.enter(key, wait_s)
                entered.append(key)
        except BaseException:
            for key in entered:
                self.mailboxes.leave(key)
            raise
        assert store.immediate is not None, "only a store in this process"
        return Turn(self, keys, store, {key: store.immediate.peek(key) for key in keys})

    def ttl_of(self, plan: StatePlan) -> float | None:
        """Return the seconds without a write after which a state is as never stored."""
        known = self._ttls.get(id(plan))
        if known is None:
            config, ttl_s = plan.config, plan.config.ttl
            if config.auto_persist and not config.expire:
                ttl_s = None
            elif ttl_s is None and plan.scope in _OF_SESSIONS:
                ttl_s = self._session_s
            known = self._ttls[id(plan)] = (plan, ttl_s)
        return known[1]

    def write_of(self, entry: Entry, update: Update) -> Write:
        """Return what a store is to keep of a change."""
        ttl_s = self.ttl_of(entry.plan)
        return Write(entry.key, update.before, update.version, update.data, update.names, entry.shape, ttl_s)

    def hold(self, lease: Lease, store: Store) -> None:
        """Renew a lease from now on."""
        self._leased[id(lease)] = (lease, store)

    def forget(self, lease: Lease) -> None:
        """Renew a lease no more."""
        self._leased.pop(id(lease), None)

    async def renew(self) -> None:
        """Renew the leases of all turns that are still running; one that was lost shows at its commit."""
        for lease, store in list(self._leased.values()):
            if id(lease) in self._leased:
                with suppress(LeaseLostError):
                    await store.renew(lease)

    def refuse_nested(self, wanted: Sequence[tuple[StatePlan, StateKey]]) -> None:
        """Raise ``NestedTurnError`` inside an active turn: waiting for a second one could wait for ever."""
        turn = current_turn.get()
        if turn is not None and turn.is_active:
            held = ", ".join(loggable(key) for key in turn.keys)
            asked = ", ".join(plan.name for plan, _ in wanted)
            raise NestedTurnError(
                f"this code holds the turn on {held} and asked for another on {asked}; take all states in one "
                f"transaction(...), or give the event a parameter annotated Writable[{wanted[0][0].name}]"
            )

    def common_store(self, wanted: Sequence[tuple[StatePlan, StateKey]]) -> Store:
        """Return the store of all classes; ``ConfigurationError`` if they live in two."""
        first = self.store_of(wanted[0][0])
        if len(wanted) == 1:
            return first
        stores = {id(store): store for store in (self.store_of(plan) for plan, _ in wanted)}
        if len(stores) != 1:
            places = ", ".join(f"{plan.name} in {self.store_of(plan).name}" for plan, _ in wanted)
            raise ConfigurationError(f"states in different stores cannot change together: {places}")
        return first

    def change_of(self, entry: Entry, commit_id: str) -> Update | None:
        """Return what a handler changed in one state, None for nothing."""
        plan, key, own = entry.plan, entry.key, entry.state
        bond = bond_of(own)
        assert bond is not None, "states of a turn are bound"
        if bond.deleted:
            return self._deletion(entry)
        before = entry.version
        if plan.is_simple and entry.extra is None and not entry.is_blank:
            values = plan.codec.simple_changes(own, entry.values)
            if not values:
                return None
            data = plan.codec.dump_simple(own)
            version = bond.version = next_version(before, commit_id)
            return Update(plan, key, before, version, data, tuple(values), values, values)
        if plan.key_column is not None and not plan.key_column.is_of(own, key):
            raise InvalidStateError(f"{plan.name}.{plan.key_column.name}: the primary key of a row cannot be changed")
        if entry.is_blank:
            data = plan.codec.dump(own)
            state, names, known = plan.codec.validated(data), plan.codec.stored, NOTHING_KNOWN
        else:
            state, change = plan.codec.changes(own, entry.values, entry.before, entry.extra)
            if change is None:
                return None
            known = change
            data, names = change.data, change.names
        version = bond.version = next_version(before, commit_id)
        if state is not own:
            bind(state, bond)
        if known.is_reloaded:
            self.spares.keep(key, data, state)
        return make_update(plan, key, (before, version), data, names, state, lambda: self.as_loaded(entry), known)

    def _deletion(self, entry: Entry) -> Update | None:
        """Return the update that shows the defaults, None if nothing was stored."""
        if entry.data is None:
            return None
        plan, key = entry.plan, entry.key
        names = plan.codec.stored
        if plan.has_default:
            state = plan.new(key)
            bind(state, Bond(key, namespace=plan.namespace))
            update = make_update(
                plan, key, (entry.version, NO_VERSION), None, names, state, lambda: self.as_loaded(entry)
            )
        else:
            values = dict.fromkeys(plan.codec.signals, "")
            update = Update(plan, key, entry.version, NO_VERSION, None, names, values, dict(values))
        return update

    def as_loaded(self, entry: Entry) -> ReactiveState:
        """Return the state as it was before the handler ran."""
        if entry.before:
            return entry.plan.codec.load(entry.before)
        return entry.plan.new(entry.key)
