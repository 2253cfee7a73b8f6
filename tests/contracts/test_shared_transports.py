"""The transports of Redis, PostgreSQL and SQLite keep every promise of a transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from faststate_asgi.stores.redis import RedisStore
from faststate_asgi.stores.sql import SqlStore
from faststate_asgi.testing.transport_contract import TransportContract, Transports
from faststate_asgi.transports.base import Transport
from faststate_asgi.transports.postgres import PostgresTransport
from faststate_asgi.transports.redis import RedisTransport
from faststate_asgi.transports.sqlite import SqliteTransport


@asynccontextmanager
async def sql_pair(url: str, kind: type[PostgresTransport | SqliteTransport]) -> AsyncIterator[Transports]:
    """Give two transports of two stores on one database."""
    pair: list[Transport] = []
    async with AsyncExitStack() as stack:
        for _ in range(2):
            store = SqlStore(url, lease_s=1, timeout_s=5, creates_tables=True)
            await store.open()
            stack.push_async_callback(store.aclose)
            transport = kind(url, store)
            stack.push_async_callback(transport.aclose)
            pair.append(transport)
        yield pair[0], pair[1]


class TestSqliteTransport(TransportContract):
    @pytest.fixture
    async def transports(self, tmp_path: Path) -> AsyncIterator[Transports]:
        async with sql_pair(f"sqlite+aiosqlite:///{tmp_path}/store.db", SqliteTransport) as pair:
            yield pair


@pytest.mark.postgres
class TestPostgresTransport(TransportContract):
    @pytest.fixture
    async def transports(self, postgres_url: str) -> AsyncIterator[Transports]:
        async with sql_pair(postgres_url, PostgresTransport) as pair:
            yield pair


@pytest.mark.redis
class TestRedisTransport(TransportContract):
    @pytest.fixture
    async def transports(self, redis_url: str) -> AsyncIterator[Transports]:
        pair: list[RedisTransport] = []
        async with AsyncExitStack() as stack:
            for _ in range(2):
                store = RedisStore(redis_url, lease_s=1, timeout_s=5)
                await store.open()
                stack.push_async_callback(store.aclose)
                pair.append(RedisTransport(redis_url, store))
                stack.push_async_callback(pair[-1].aclose)
            yield pair[0], pair[1]
