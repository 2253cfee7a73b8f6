"""A Redis that may lose states is named once in the log, with what to set; it never keeps an app from starting."""

import logging
from collections.abc import Callable

import pytest

from faststate_asgi import FastState, StateRegistry
from faststate_asgi.stores.redis import RedisStore
from tests import services
from tests.services import RedisServer

pytestmark = pytest.mark.anyio

StartRedis = Callable[..., RedisServer]
EVICTS = "Redis deletes states, logins and kept answers"
FORGETS = "Redis keeps nothing on disk"
DURABLE = ("--appendonly", "yes")


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the texts of all warnings and errors of the package so far."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("faststate") and record.levelno >= logging.WARNING
    ]


@pytest.mark.redis
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(("--maxmemory-policy", "allkeys-lru"), [EVICTS, FORGETS], id="both"),
        pytest.param((*DURABLE, "--maxmemory-policy", "allkeys-random"), [EVICTS], id="evicts"),
        pytest.param((), [FORGETS], id="forgets"),
        pytest.param(DURABLE, [], id="append-only"),
        pytest.param(("--save", "3600 1"), [], id="snapshots"),
    ],
)
async def test_what_redis_may_lose_is_told_when_an_app_starts(
    start_redis: StartRedis, caplog: pytest.LogCaptureFixture, config: tuple[str, ...], expected: list[str]
) -> None:
    server = start_redis(*config)
    async with FastState(registry=StateRegistry(), store=server.url):
        found = warnings_in(caplog)
    assert [text[: len(begin)] for text, begin in zip(found, expected, strict=True)] == expected
    assert all("set maxmemory-policy noeviction" in text for text in found if text.startswith(EVICTS))
    assert all("set appendonly yes" in text for text in found if text.startswith(FORGETS))


@pytest.mark.redis
async def test_it_is_told_once_and_not_at_each_reconnect(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    store = RedisStore(redis_url, lease_s=1, timeout_s=5)
    for _ in range(2):
        await store.open()
        await store.open()
        await store.ping()
        assert store._client is not None
        await store._client.connection_pool.disconnect()
        await store.ping()
        await store.aclose()
    (told,) = warnings_in(caplog)
    assert told.startswith(FORGETS)


@pytest.mark.redis
async def test_where_config_is_forbidden_nothing_is_said_and_all_works(
    start_redis: StartRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis("--maxmemory-policy", "allkeys-lru", "--rename-command", "CONFIG", "")
    assert server.command("CONFIG", "GET", "save").startswith(b"-ERR")
    async with FastState(registry=StateRegistry(), store=server.url) as engine:
        assert await engine.backends.health(5) == {"redis": "ok"}
    server.command("ACL", "SETUSER", "app", "on", ">only-for-a-test", "~*", "&*", "+@all", "-config")
    url = server.url.replace("127.0.0.1", "app:only-for-a-test@127.0.0.1")
    async with FastState(registry=StateRegistry(), store=url) as engine:
        assert await engine.backends.health(5) == {"redis": "ok"}
    assert warnings_in(caplog) == []


async def test_a_redis_that_is_not_there_yet_stops_no_start(caplog: pytest.LogCaptureFixture) -> None:
    store = RedisStore(f"redis://127.0.0.1:{services.free_port()}/0", lease_s=1, timeout_s=1)
    await store.open()
    await store.aclose()
    assert warnings_in(caplog) == []
