"""The memory store keeps every promise of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from faststate_asgi.stores.memory import MemoryStore
from faststate_asgi.testing.store_contract import StoreContract, Stores


class TestMemoryStore(StoreContract):
    do_leases_expire = False

    @pytest.fixture
    async def stores(self) -> AsyncIterator[Stores]:
        store = MemoryStore()
        await store.open()
        yield store, store
        await store.aclose()
