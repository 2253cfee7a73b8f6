"""SQLite and PostgreSQL keep every promise of a store."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import Connection
from sqlalchemy.event import listen, remove

from faststate_asgi import StateKey, StateScope
from faststate_asgi.errors import StoreUnavailableError
from faststate_asgi.stores.sql import SqlStore
from faststate_asgi.stores.statements import PURGE_LOCK, metadata
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

    async def test_only_one_process_purges_at_a_time(self, stores: Stores, postgres_url: str) -> None:
        await stores[0].put_records(dict.fromkeys(("a", "b", "c"), (b"", 0.001)))
        other = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
        try:
            await other.execute(f"SELECT pg_advisory_lock({PURGE_LOCK})")
            assert await stores[0].purge(10) == 0
            await other.execute(f"SELECT pg_advisory_unlock({PURGE_LOCK})")
            assert await stores[0].purge(2) == 2
            assert await stores[1].purge(10) == 1
        finally:
            await other.close()

    async def test_two_processes_that_find_no_tables_both_start(self, postgres_url: str) -> None:
        """The second one makes them, or begins to, between what the first one looks up and what it makes."""
        others: list[threading.Thread] = []

        async def start() -> None:
            store = SqlStore(postgres_url, lease_s=LEASE_S, timeout_s=10, creates_tables=True)
            try:
                await store.open()
                assert await store.count() == 0
            finally:
                await store.aclose()

        outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run_other() -> None:
            try:
                outcome.set_result(asyncio.run(start()))
            except BaseException as exc:
                outcome.set_exception(exc)

        def let_the_other_pass(*_: object, **__: object) -> None:
            if not others:
                others.append(threading.Thread(target=run_other))
                others[0].start()
                others[0].join(1)

        listen(metadata, "before_create", let_the_other_pass)
        try:
            await start()
        finally:
            remove(metadata, "before_create", let_the_other_pass)
            await asyncio.to_thread(others[0].join)
        outcome.result()

    async def test_a_process_that_is_frozen_inside_a_transaction_keeps_nobody_from_its_keys(
        self, stores: Stores, postgres_url: str
    ) -> None:
        key = StateKey(StateScope.GLOBAL, "Counter")
        asleep, awake = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        async def freeze() -> None:
            """Take the turn in a loop of its own, which stops before the transaction ends."""
            frozen = SqlStore(postgres_url, lease_s=LEASE_S, timeout_s=1, creates_tables=False)
            await frozen.open()
            runs = 0

            def take(connection: Connection) -> None:
                nonlocal runs
                runs += 1
                frozen._take(connection, [key], "frozen")
                if runs == 1:
                    loop.call_soon_threadsafe(asleep.set)
                    time.sleep(4)
                    awake.set()

            try:
                with pytest.raises(StoreUnavailableError):  # its time is over when it wakes up
                    await frozen._write(take)
            finally:
                await frozen.aclose()

        freezing = asyncio.create_task(asyncio.to_thread(asyncio.run, freeze()))
        await asleep.wait()
        lease = await stores[1].acquire([key], wait_s=20)
        assert not awake.is_set(), "the turn was free before the other woke up"
        await stores[1].release(lease)
        await freezing
