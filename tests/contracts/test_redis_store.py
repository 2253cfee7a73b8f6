"""Redis keeps every promise of a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from faststate_asgi.stores.redis import RedisStore
from faststate_asgi.testing.store_contract import StoreContract, Stores

LEASE_S = 0.5


@pytest.mark.redis
class TestRedisStore(StoreContract):
    lease_s = LEASE_S

    @pytest.fixture
    async def stores(self, redis_url: str) -> AsyncIterator[Stores]:
        pair = RedisStore(redis_url, lease_s=LEASE_S, timeout_s=5), RedisStore(redis_url, lease_s=LEASE_S, timeout_s=5)
        for store in pair:
            await store.open()
        yield pair
        for store in pair:
            await store.aclose()


@pytest.mark.anyio
@pytest.mark.redis
async def test_what_was_asked_just_before_the_end_is_answered(redis_url: str) -> None:
    store = RedisStore(redis_url, lease_s=LEASE_S, timeout_s=5)
    await store.open()
    asked = asyncio.ensure_future(store.get_records(["nothing"]))
    await asyncio.sleep(0)  # the command waits for the end of this turn of the loop
    await store.aclose()
    assert await asked == [None]
