"""Redis keeps every promise of a store."""

from __future__ import annotations

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
