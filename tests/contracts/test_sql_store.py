"""SQLite and PostgreSQL keep every promise of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faststate_asgi.stores.sql import SqlStore
from faststate_asgi.testing.store_contract import StoreContract, Stores

LEASE_S = 0.5


async def two_of(url: str) -> AsyncIterator[Stores]:
    """Yield two stores on one database, as two processes have them."""
    first = SqlStore(url, lease_s=LEASE_S, timeout_s=5, creates_tables=True)
    second = SqlStore(url, lease_s=LEASE_S, timeout_s=5, creates_tables=True)
    await first.open()
    await second.open()
    yield first, second
    await first.aclose()
    await second.aclose()


class TestSqliteStore(StoreContract):
    lease_s = LEASE_S

    @pytest.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Stores]:
        async for pair in two_of(f"sqlite+aiosqlite:///{tmp_path}/store.db"):
            yield pair


@pytest.mark.postgres
class TestPostgresStore(StoreContract):
    lease_s = LEASE_S

    @pytest.fixture
    async def stores(self, postgres_url: str) -> AsyncIterator[Stores]:
        async for pair in two_of(postgres_url):
            yield pair
