"""A store keeps every promise for the rows of a ``table=True`` state too; only that they do not expire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from sqlmodel import Field

from faststate_asgi import ReactiveState, StateConfig, StateKey, StateRegistry, StateScope
from faststate_asgi.stores.base import Lease, Remember, Snapshot, Store, Write
from faststate_asgi.stores.sql import SqlStore
from faststate_asgi.stores.tables import TableRows
from faststate_asgi.testing.store_contract import StoreContract, Stores

LEASE_S = 0.5


class Shelf(ReactiveState, table=True):
    """A row for each key of the suite, with what the suite stores."""

    id: str = Field(primary_key=True)
    body: str = ""
    shape: str = ""


def rows_of(cls: type[ReactiveState]) -> TableRows:
    """Return the rows of a class as the engine would make them."""
    plan = StateRegistry()
    plan.register(cls, StateConfig(scope=StateScope.RECORD, public=True, create=True))
    known = plan.plan(cls)
    assert known.key_column is not None
    return TableRows(known.name, cls, known.codec, known.key_column, known.shape)


def row_key(key: StateKey) -> StateKey:
    """Return the key of the row that stands for a key of the suite; those of sessions are no rows."""
    return key if key.session_id is not None else StateKey(StateScope.RECORD, "Shelf", record_id=key.name)


def as_row(item: Write) -> Write:
    """Return a write of the suite as a write of a row."""
    key = row_key(item.key)
    if key is item.key or item.data is None:
        return item._replace(key=key)
    row = {"id": key.record_id, "body": item.data.decode(), "shape": item.shape}
    return item._replace(key=key, data=json.dumps(row).encode(), fields=())


def as_stored(snapshot: Snapshot | None, key: StateKey) -> Snapshot | None:
    """Return a row as what the suite stored."""
    if snapshot is None or key.session_id is not None:
        return snapshot
    row = json.loads(snapshot.data)
    return Snapshot(snapshot.version, row["body"].encode(), row["shape"])


class Shelves:
    """The store as the suite sees it: everything but states of sessions is a row."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, keys: Sequence[StateKey]) -> list[Snapshot | None]:
        """Read rows."""
        found = await self._store.read([row_key(key) for key in keys])
        return [as_stored(snapshot, key) for snapshot, key in zip(found, keys, strict=True)]

    async def acquire(self, keys: Sequence[StateKey], *, wait_s: float) -> Lease:
        """Take the turn on rows."""
        lease = await self._store.acquire([row_key(key) for key in keys], wait_s=wait_s)
        snapshots = {key: as_stored(lease.snapshots[row_key(key)], key) for key in keys}
        return replace(lease, snapshots=snapshots)

    async def commit(
        self,
        lease: Lease,
        writes: Sequence[Write],
        *,
        commit_id: str,
        remember: Sequence[Remember] = (),
        release: bool = True,
    ) -> None:
        """Commit rows."""
        rows = [as_row(item) for item in writes]
        await self._store.commit(lease, rows, commit_id=commit_id, remember=remember, release=release)


async def two_of(url: str) -> AsyncIterator[Stores]:
    """Yield two stores on one database, as two processes have them."""
    stores = [SqlStore(url, lease_s=LEASE_S, timeout_s=5, creates_tables=True) for _ in range(2)]
    for store in stores:
        store.adopt(rows_of(Shelf))
        await store.open()
    yield cast("Store", Shelves(stores[0])), cast("Store", Shelves(stores[1]))
    for store in stores:
        await store.aclose()


class RowContract(StoreContract):
    """The suite but for what is about time to live."""

    lease_s = LEASE_S
    test_a_state_expires_after_its_ttl_without_a_write = None  # type: ignore[assignment]
    test_touching_keeps_a_watched_state_alive = None  # type: ignore[assignment]
    test_purging_deletes_what_has_expired_and_nothing_else = None  # type: ignore[assignment]


class TestRowsOfSqlite(RowContract):
    @pytest.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Stores]:
        async for pair in two_of(f"sqlite+aiosqlite:///{tmp_path}/store.db"):
            yield pair


@pytest.mark.postgres
class TestRowsOfPostgres(RowContract):
    @pytest.fixture
    async def stores(self, postgres_url: str) -> AsyncIterator[Stores]:
        async for pair in two_of(postgres_url):
            yield pair
