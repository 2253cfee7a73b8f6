"""Which class lives in which store, what is refused before anything runs, and how a server's workers are counted."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faststate_asgi import (
    ConfigurationError,
    FastState,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
)
from faststate_asgi.backends import Backends, worker_count
from faststate_asgi.keys import session_key
from faststate_asgi.messages import Ended
from faststate_asgi.settings import make_settings
from faststate_asgi.stores.base import Write
from faststate_asgi.stores.memory import MAX_BYTES, MemoryStore
from tests import services

SQLITE = "sqlite+aiosqlite:///app.db"
POSTGRES = "postgresql+asyncpg://somebody:hidden@127.0.0.1:1/app"
REDIS = "redis://127.0.0.1:1/0"


class Thing(ReactiveState):
    """Some state."""

    count: int = 0


class Other(ReactiveState):
    """Another state."""

    count: int = 0


def backends_of(config: StateConfig | None = None, **settings: Any) -> tuple[Backends, StateRegistry]:
    """Return the backends of some settings, none of them opened, with ``Thing`` registered."""
    registry = StateRegistry()
    registry.register(Thing, config or StateConfig())
    return Backends(make_settings(settings, {}), registry), registry


# -- which store ---------------------------------------------------------------------------------------------------------

PLACES = [
    # settings, store of plain states and of sessions, store of auto_persist states
    ({}, "memory", "memory"),
    ({"store": "memory:"}, "memory", "memory"),
    ({"store": SQLITE}, "database", "database"),
    ({"store": POSTGRES}, "database", "database"),
    ({"store": "postgres://u@h/db"}, "database", "database"),
    ({"store": REDIS}, "redis", "redis"),
    ({"store": "rediss://h/0"}, "redis", "redis"),
    ({"store": "unix:///run/redis.sock"}, "redis", "redis"),
    ({"store": SQLITE, "redis_url": REDIS}, "redis", "database"),
    ({"store": REDIS, "database_url": POSTGRES}, "redis", "database"),
    ({"database_url": SQLITE}, "database", "database"),
    ({"redis_url": REDIS}, "redis", "redis"),
    ({"database_url": SQLITE, "redis_url": REDIS}, "redis", "database"),
]


@pytest.mark.parametrize(("settings", "plain", "durable"), PLACES)
def test_the_settings_and_auto_persist_decide_where_a_class_lives(
    settings: dict[str, Any], plain: str, durable: str
) -> None:
    backends, registry = backends_of(**settings)
    registry.register(Other, StateConfig(auto_persist=True))
    assert backends.store_of(registry.plan(Thing)).name == plain
    assert backends.store_of(registry.plan(Other)).name == durable
    assert backends.records.name == plain


@pytest.mark.parametrize("backend", ["memory", "database", "redis"])
def test_a_class_can_say_where_it_lives(backend: Any) -> None:
    backends, registry = backends_of(
        StateConfig(persistence_backend=backend), store="memory:", database_url=SQLITE, redis_url=REDIS
    )
    assert backends.store_of(registry.plan(Thing)).name == backend


def test_memory_is_always_to_be_had() -> None:
    backends, registry = backends_of(StateConfig(persistence_backend="memory"), store=SQLITE)
    assert backends.store_of(registry.plan(Thing)).name == "memory"
    backends.check()


@pytest.mark.parametrize(("backend", "setting"), [("redis", "redis_url"), ("database", "database_url")])
def test_a_backend_that_is_not_configured_is_refused_with_the_setting_that_is_missing(
    backend: Any, setting: str
) -> None:
    backends, _ = backends_of(StateConfig(persistence_backend=backend))
    with pytest.raises(ConfigurationError, match=rf"Thing .*{backend}.*set {setting}"):
        backends.check()


@pytest.mark.parametrize(
    "url", ["mysql://u:hidden@h/db", "nonsense", "", "http://h", "postgresql+psycopg://u:hidden@h/db"]
)
def test_an_address_that_is_not_known_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sqlite\+aiosqlite") as refusal:
        backends_of(store=url)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("url", ["sqlite+aiosqlite", "postgresql+asyncpg:u:hidden@h", "redis://u:hidden@h:port/0"])
def test_an_address_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        backends_of(store=url)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"store": SQLITE, "database_url": POSTGRES},
        {"store": REDIS, "redis_url": "redis://127.0.0.1:2/0"},
        {"redis_url": SQLITE},
        {"database_url": REDIS},
    ],
)
def test_two_places_for_one_kind_and_a_place_of_the_wrong_kind_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        backends_of(**settings)


MISSING_DRIVER = """
import sys
sys.modules[{module!r}] = None
from faststate_asgi import FastState, MissingDependencyError
try:
    FastState(store={url!r})
except MissingDependencyError as exc:
    print(exc)
"""


@pytest.mark.parametrize(("module", "url", "extra"), [("redis", REDIS, "redis"), ("asyncpg", POSTGRES, "postgres")])
def test_a_driver_that_is_not_installed_is_named_with_its_extra(module: str, url: str, extra: str) -> None:
    program = MISSING_DRIVER.format(module=module, url=url)
    finished = subprocess.run(
        [sys.executable, "-c", program], env=services.site_environment(), capture_output=True, text=True, timeout=60
    )
    assert f"pip install 'faststate-asgi[{extra}]'" in finished.stdout, finished.stderr
    assert "hidden" not in finished.stdout


@pytest.mark.anyio
async def test_states_of_two_stores_cannot_change_together(tmp_path: Path) -> None:
    registry = StateRegistry()
    everybody = StateScope.GLOBAL
    registry.register(Thing, StateConfig(scope=everybody, persistence_backend="memory"))
    registry.register(Other, StateConfig(scope=everybody))
    store = f"sqlite+aiosqlite:///{tmp_path}/app.db"
    async with FastState(registry=registry, store=store, debug=True, secret_key="k" * 32) as faststate:
        with pytest.raises(ConfigurationError, match="Thing in memory, Other in database"):
            async with faststate.transaction(Thing, Other):
                pass
        async with faststate.transaction(Other) as other:
            other.count = 3
        assert (await faststate.get(Other)).count == 3


# -- several workers -----------------------------------------------------------------------------------------------------

COMMANDS = [
    (["/bin/uvicorn", "app:app"], "", 1),
    (["/bin/uvicorn", "app:app", "--workers", "4"], "", 4),
    (["/bin/uvicorn", "app:app", "--workers=4"], "", 4),
    (["/lib/uvicorn/__main__.py", "app:app", "--workers", "2"], "", 2),
    (["/bin/uvicorn", "app:app"], "3", 3),
    (["/bin/uvicorn", "app:app", "--workers", "1"], "3", 1),
    (["/bin/uvicorn", "app:app", "--reload"], "3", 1),
    (["/bin/uvicorn", "app:app", "--reload", "--workers", "4"], "", 1),
    (["/bin/uvicorn", "app:app", "--workers"], "", 1),
    (["/bin/uvicorn", "app:app", "--workers", "many"], "", 1),
    (["/bin/uvicorn", "app:app"], "many", 1),
    (["/bin/gunicorn", "-w", "4", "app:app"], "", 4),
    (["/bin/gunicorn", "-w4", "app:app"], "", 4),
    (["/bin/gunicorn", "app:app"], "2", 2),
    (["/bin/hypercorn", "--workers", "3", "app:app"], "", 3),
    (["/bin/granian", "--workers", "2", "app:app"], "", 2),
    (["/bin/fastapi", "run", "--workers", "3"], "", 3),
    (["/home/me/app.py"], "3", 1),
    (["/home/me/tool.py", "-w", "4"], "", 1),
    ([], "", 1),
    ([""], "", 1),
]


@pytest.mark.parametrize(("command", "concurrency", "count"), COMMANDS)
def test_workers_are_counted_from_the_command_line_and_the_environment(
    monkeypatch: pytest.MonkeyPatch, command: list[str], concurrency: str, count: int
) -> None:
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    assert worker_count() == count


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was asked for two workers."""
    monkeypatch.setattr(sys, "argv", ["/bin/uvicorn", "app:app", "--workers", "2"])


@pytest.mark.usefixtures("two_workers")
def test_memory_under_several_workers_is_refused_with_the_way_out() -> None:
    backends, _ = backends_of()
    with pytest.raises(ConfigurationError, match=r"memory: .* 2 workers .*sqlite\+aiosqlite.*postgresql.*redis://"):
        backends.check()


@pytest.mark.usefixtures("two_workers")
def test_one_class_in_memory_is_enough_to_be_refused() -> None:
    backends, _ = backends_of(StateConfig(persistence_backend="memory"), store=SQLITE)
    with pytest.raises(ConfigurationError, match="memory:"):
        backends.check()


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize("url", [SQLITE, POSTGRES, REDIS])
def test_shared_stores_are_allowed_under_several_workers(url: str) -> None:
    backends, _ = backends_of(store=url)
    backends.check()


@pytest.mark.usefixtures("two_workers")
def test_a_memory_that_nobody_uses_does_no_harm() -> None:
    backends, _ = backends_of(store="memory:", database_url=SQLITE)
    backends.check()


# -- all stores together -------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_health_says_which_store_is_down() -> None:
    backends, _ = backends_of(store="memory:", redis_url=f"redis://127.0.0.1:{services.free_port()}/0", store_timeout=1)
    for store in backends.stores.values():
        await store.open()
    assert await backends.health(2) == {"memory": "ok", "redis": "down"}
    await backends.aclose()
    assert await backends.health(2) == {"memory": "down", "redis": "down"}


@pytest.mark.anyio
async def test_other_processes_that_cannot_be_told_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    backends, _ = backends_of(store=REDIS)
    with caplog.at_level(logging.WARNING, "faststate.stores"):
        await backends.publish([Ended(session="abc")])
    assert "could not be told" in caplog.text
    alone, _ = backends_of()
    await alone.publish([Ended(session="abc")])


@pytest.mark.anyio
async def test_states_are_counted_and_sessions_cleared_over_all_stores(tmp_path: Path) -> None:
    registry = StateRegistry()
    registry.register(Thing, StateConfig(persistence_backend="memory"))
    registry.register(Other, StateConfig())
    store = f"sqlite+aiosqlite:///{tmp_path}/app.db"
    async with FastState(registry=registry, store=store, debug=True, secret_key="k" * 32) as faststate:
        for cls in (Thing, Other):
            for session in ("one", "two"):
                async with faststate.transaction(cls, session_id=session) as state:
                    state.count = 5
        assert await faststate.backends.count() == 4
        assert await faststate.clear_session_states("one") == 2
        assert await faststate.backends.count() == 2
        assert (await faststate.get(Thing, session_id="one")).count == 0
        assert (await faststate.get(Other, session_id="two")).count == 5


@pytest.mark.anyio
async def test_a_full_memory_keeps_what_is_watched_and_counts_what_it_forgot() -> None:
    registry = StateRegistry()
    registry.register(Thing, StateConfig(namespace=True))
    async with FastState(registry=registry) as faststate:
        (store,) = faststate.backends.stores.values()
        assert isinstance(store, MemoryStore)
        plan, key = registry.plan(Thing), session_key("Thing", "watched")
        await faststate.hub.mirrors([(plan, key)])
        store.apply([Write(key, "0", "1-a", b'{"count":7}', shape=plan.shape)], ())
        big = b"{}" + b" " * (MAX_BYTES // 20)
        for number in range(40):
            store.apply([Write(session_key("Thing", str(number)), "0", "1-a", big)], ())
        assert (await faststate.get(Thing, session_id="watched")).count == 7
        stats = await faststate.stats()
        assert stats["evicted_states"] >= 20
        assert stats["evicted_states"] + stats["stored_states"] == 41
