"""Redis keeps every promise of a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from faststate_asgi import FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, StateScope, event
from faststate_asgi.stores.redis import RedisStore
from faststate_asgi.testing import FastStateClient
from faststate_asgi.testing.store_contract import StoreContract, Stores
from tests import services

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


class Doorbell(ReactiveState):
    """For everybody."""

    rings: int = 0

    @event
    def ring(self) -> None:
        self.rings += 1


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("no page is asked for")


@pytest.mark.anyio
@pytest.mark.redis
async def test_a_redis_behind_a_socket_of_the_machine_serves_states_and_their_news() -> None:
    registry = StateRegistry()
    registry.register(Doorbell, StateConfig(scope=StateScope.GLOBAL))
    with (
        services.temporary_folder() as folder,
        services.redis_running("--unixsocket", f"{folder}/redis.sock") as server,
    ):
        sites = [
            FastStateMiddleware(
                plain_app, registry=registry, secret_key="k" * 32, store=f"unix://{folder}/redis.sock?db=1"
            )
            for _ in range(2)
        ]
        async with (
            FastStateClient(sites[0]) as ringer,
            FastStateClient(sites[1]) as listener,
            listener.stream("Doorbell") as stream,
        ):
            await stream.until(lambda signals: signals["rings"] == 0)
            assert (await ringer.call(Doorbell.ring)).signals == {"rings": 1}
            await stream.until(lambda signals: signals["rings"] == 1)
        assert b"db1:keys=" in server.command("INFO", "keyspace")
