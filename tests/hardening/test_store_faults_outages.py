"""Stores that go away, come back, or come back with less: nothing acknowledged is lost, and everything heals alone."""

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.apps.shared_clients import (
    Clicker,
    Tab,
    all_show,
    clickers,
    new_client,
    post,
    serve_many,
    settings_of,
    tabs_on,
    visitor,
)
from tests.conftest import Serve
from tests.services import PostgresServer, RedisServer, Running, SiteServer, await_ready, spawn, unprivileged_user

pytestmark = pytest.mark.anyio
RESYNC_S = 1.5
CLIENTS = 6
AT_ONCE = ("--repl-diskless-sync-delay", "0")
ASKABLE = ("--enable-debug-command", "local")
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
OUTAGES = [
    (signal.SIGKILL, 0.7),
    *(pytest.param(n, 5, marks=pytest.mark.full) for n in (signal.SIGKILL, signal.SIGTERM)),
]
POSTGRES_OUTAGES = [
    (signal.SIGQUIT, 0.7),
    *(pytest.param(n, 5, marks=pytest.mark.full) for n in (signal.SIGQUIT, signal.SIGINT)),
]
StartRedis = Callable[..., RedisServer]
StartPostgres = Callable[..., PostgresServer]


async def restart(server: Running, number: signal.Signals, down_s: float, *, user: str | None = None) -> None:
    """Stop a server by a signal, and start it again in its place with what it had stored."""
    command = list(server.process.args)  # type: ignore[arg-type]
    server.process.send_signal(number)
    await asyncio.to_thread(server.wait, 20)
    await asyncio.sleep(down_s)
    server.process = spawn([str(word) for word in command], server.log_path, user=user, cwd=server.log_path.parent)


async def work_during(
    fault: Callable[[], Awaitable[None]], sites: Sequence[SiteServer], tabs: int, right_within_s: float = 10
) -> list[Clicker]:
    """Click all the time while something happens; every click is acknowledged in the end and counts once."""
    urls = [site.url for site in sites]
    async with clickers(CLIENTS, lambda: urls) as people, tabs_on(sites, tabs, "Counter") as pages:
        is_over = asyncio.Event()
        counts = [0] * CLIENTS

        async def work(number: int) -> None:
            while not is_over.is_set():
                await people[number].click("Counter/bump")
                await people[number].click("Own/bump")
                counts[number] += 1

        working = [asyncio.create_task(work(number)) for number in range(CLIENTS)]
        try:
            await asyncio.sleep(0.3)
            await fault()
            await asyncio.sleep(0.3)
        finally:
            is_over.set()
        await asyncio.gather(*working)
        await all_show(pages, "Counter.count", sum(counts), right_within_s)
        for number, person in enumerate(people):
            assert (await person.client.get(urls[number % len(urls)] + "/")).text.endswith(f" {counts[number]}")
        await people[0].click("Counter/bump")
        await all_show(pages, "Counter.count", sum(counts) + 1, 3)
        assert [page.opened for page in pages] == [1] * tabs, "no stream had to be opened again"
        await check_health(urls, people[0])
        return people


async def check_health(urls: Sequence[str], person: Clicker) -> None:
    """Every server calls itself well."""
    for url in urls:
        assert (await person.client.get(url + "/faststate/health")).json()["status"] == "ok"


@pytest.mark.redis
@pytest.mark.parametrize(("number", "down_s"), OUTAGES)
async def test_r5_nothing_acknowledged_is_lost_when_redis_restarts_under_load(
    serve: Serve, start_redis: StartRedis, slack: float, number: signal.Signals, down_s: float
) -> None:
    redis = start_redis(*DURABLE)
    sites = await serve_many(serve, 2, settings_of(redis.url, lease=2, resync_interval=RESYNC_S))

    async def fault() -> None:
        await restart(redis, number, down_s)
        await asyncio.to_thread(await_ready, redis, lambda: redis.command("PING").startswith(b"+PONG"))
        await asyncio.sleep(1)

    check_outage(await work_during(fault, sites, 6), down_s, slack)


@pytest.mark.postgres
@pytest.mark.parametrize(("number", "down_s"), POSTGRES_OUTAGES)
async def test_r5_nothing_acknowledged_is_lost_when_postgres_restarts_under_load(
    serve: Serve, start_postgres: StartPostgres, slack: float, number: signal.Signals, down_s: float
) -> None:
    postgres = start_postgres()
    sites = await serve_many(serve, 2, settings_of(postgres.url, lease=2, resync_interval=RESYNC_S))

    async def fault() -> None:
        await restart(postgres, number, down_s, user=unprivileged_user())
        await asyncio.to_thread(await_ready, postgres, lambda: accepts(postgres.port))
        await asyncio.sleep(1)

    check_outage(await work_during(fault, sites, 6), down_s, slack)


def check_outage(people: Sequence[Clicker], down_s: float, slack: float) -> None:
    """Clicks were refused meanwhile, soon, and taken soon after it; a server of a store needs a while to leave and to start."""
    assert sum(person.statuses.get(503, 0) for person in people) > 0
    assert max(person.slowest_refusal_s for person in people) < 2.5 * slack
    assert max(person.slowest_s for person in people) < down_s + (2 + 2) * slack


def accepts(port: int) -> bool:
    """Return whether PostgreSQL lets somebody in."""

    async def ask() -> None:
        connection = await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", timeout=2)
        await connection.close()

    try:
        asyncio.run(ask())
    except asyncpg.PostgresError:
        return False
    return True


LOCKER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
print("free", flush=True)
"""


@asynccontextmanager
async def locked(path: Path, seconds: float) -> Any:
    """Lock a database from another program; the block runs while it is locked."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOCKER, str(path), str(seconds), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"locked\n"
    yield
    await process.wait()


async def test_a_sqlite_file_locked_by_another_program_makes_events_wait_or_answer_503(
    serve: Serve, tmp_path: Path, slack: float
) -> None:
    path = tmp_path / "shared.db"
    sites = await serve_many(serve, 2, settings_of(f"sqlite+aiosqlite:///{path}", resync_interval=RESYNC_S))
    loop = asyncio.get_running_loop()
    slowest: list[float] = []

    async def fault() -> None:
        async with locked(path, 3), new_client() as client:
            until = loop.time() + 2.5
            while loop.time() < until:
                began = loop.time()
                page = await client.get(sites[0].url + "/words")
                assert page.status_code == 200, "what is stored can still be read"
                slowest.append(loop.time() - began)
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)

    people = await work_during(fault, sites, 6)
    assert sum(person.statuses.get(503, 0) for person in people) > 0
    assert max(slowest) < 0.5 * slack


@pytest.mark.redis
async def test_every_event_ends_within_the_stores_timeout_while_redis_hangs(
    serve: Serve, start_redis: StartRedis, slack: float
) -> None:
    redis = start_redis()
    (site,) = await serve_many(serve, 1, settings_of(redis.url, store_timeout=1))
    loop = asyncio.get_running_loop()
    async with new_client() as client, Tab(site.url, "Counter") as tab:
        await visitor(client, site.url)
        await tab.shows("Counter.count", 0)
        redis.process.send_signal(signal.SIGSTOP)
        try:
            began = loop.time()
            answers = await asyncio.gather(*(post(client, site.url, "Counter/bump") for _ in range(20)))
            assert loop.time() - began < 2.5 * slack
            assert {answer.status_code for answer in answers} == {503}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
            health = await client.get(site.url + "/faststate/health")
            assert (health.status_code, health.json()["stores"]) == (503, {"redis": "down"})
        finally:
            redis.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(10):
            while (answer := await post(client, site.url, "Counter/bump")).status_code != 200:
                await asyncio.sleep(0.1)
        count = int(answer.text.partition('"count":')[2].partition("}")[0])
        await tab.shows("Counter.count", count)


def processes_of(postgres: PostgresServer) -> list[int]:
    """Return the ids of a server's process and of those that serve its connections."""
    children = Path(f"/proc/{postgres.pid}/task/{postgres.pid}/children").read_text()
    return [postgres.pid, *map(int, children.split())]


@pytest.mark.postgres
async def test_every_event_ends_within_the_stores_timeout_while_postgres_hangs(
    serve: Serve, start_postgres: StartPostgres, slack: float
) -> None:
    postgres = start_postgres()
    (site,) = await serve_many(serve, 1, settings_of(postgres.url, store_timeout=1))
    loop = asyncio.get_running_loop()
    async with new_client() as client:
        await visitor(client, site.url)
        assert (await post(client, site.url, "Counter/bump")).status_code == 200
        frozen = processes_of(postgres)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(2):  # with connections that were open, and with new ones
                began = loop.time()
                answers = await asyncio.gather(*(post(client, site.url, "Counter/bump") for _ in range(5)))
                assert loop.time() - began < 1.5 + 0.5 * slack, "one wait, not several"
                assert {answer.status_code for answer in answers} == {503}
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            while (await post(client, site.url, "Counter/bump")).status_code != 200:
                await asyncio.sleep(0.1)


async def has_caught_up(replica: RedisServer, first: RedisServer) -> None:
    """Return when a replica has all that is stored.

    ``WAIT`` would wait for the writes of its own connection, which are none: during the first copy it returns too early.
    """
    digest = first.command("DEBUG", "DIGEST")
    async with asyncio.timeout(20):
        while replica.command("DEBUG", "DIGEST") != digest:
            await asyncio.sleep(0.02)


@pytest.mark.redis
@pytest.mark.parametrize(("lost", "count"), [(10, 8), pytest.param(50, 100, marks=pytest.mark.full)])
async def test_r9_no_tab_is_stuck_after_a_replica_without_the_last_writes_took_over(
    serve: Serve, start_redis: StartRedis, slack: float, lost: int, count: int
) -> None:
    first = start_redis(*AT_ONCE, *ASKABLE)
    replica = start_redis(*AT_ONCE, *ASKABLE, "--replicaof", "127.0.0.1", str(first.port))
    sites = await serve_many(serve, 2, settings_of(first.url, resync_interval=RESYNC_S))
    async with new_client() as client, tabs_on(sites, count, "Counter,Item:7") as tabs:
        for number in range(5):
            await post(client, sites[number % 2].url, "Counter/bump")
        await has_caught_up(replica, first)
        assert replica.command("REPLICAOF", "NO", "ONE").startswith(b"+OK")
        for number in range(lost):
            await post(client, sites[number % 2].url, "Counter/bump")
            await post(client, sites[number % 2].url, "Item/bump?record_id=7")
        await all_show(tabs, "Counter.count", 5 + lost)
        port = first.port
        first.kill()
        await asyncio.to_thread(first.wait)
        promoted = await asyncio.to_thread(
            start_redis, *ASKABLE, "--replicaof", "127.0.0.1", str(replica.port), port=port
        )
        await has_caught_up(promoted, replica)
        assert promoted.command("REPLICAOF", "NO", "ONE").startswith(b"+OK")
        await all_show(tabs, "Counter.count", 5, (RESYNC_S + 4) * slack)
        await all_show(tabs, "Item.7.count", 0, RESYNC_S * slack)
        answer = await post(client, sites[0].url, "Counter/bump")
        assert '"count":6' in answer.text
        await all_show(tabs, "Counter.count", 6, 2 * slack)


@pytest.mark.redis
@pytest.mark.parametrize("count", [8, pytest.param(100, marks=pytest.mark.full)])
async def test_r10_every_tab_shows_the_defaults_after_redis_lost_everything(
    serve: Serve, start_redis: StartRedis, slack: float, count: int
) -> None:
    redis = start_redis()
    sites = await serve_many(serve, 2, settings_of(redis.url, resync_interval=RESYNC_S))
    async with new_client() as client, tabs_on(sites, count, "Counter") as tabs:
        for _ in range(3):
            await post(client, sites[0].url, "Counter/bump")
        await all_show(tabs, "Counter.count", 3)
        redis.command("FLUSHALL")
        await all_show(tabs, "Counter.count", 0, (RESYNC_S + 1) * slack)
        await post(client, sites[0].url, "Counter/bump")
        await all_show(tabs, "Counter.count", 1, 2 * slack)


def kill_subscribers(redis: RedisServer) -> int:
    """Cut off everybody who listens, and return how many."""
    return int(redis.command("CLIENT", "KILL", "TYPE", "pubsub")[1:])


async def terminate(url: str, which: str) -> int:
    """End backends of PostgreSQL, and return how many."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        rows = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}"
        )
        return len(rows)
    finally:
        await connection.close()


LISTENER = "query ILIKE 'listen%' OR query ILIKE 'select 1'"
TIMES = [10, pytest.param(50, marks=[pytest.mark.full, pytest.mark.timeout(300)])]
PAUSES = [(10, 0.2), pytest.param(100, 0.1, marks=[pytest.mark.full, pytest.mark.timeout(300)])]


@pytest.mark.redis
@pytest.mark.parametrize("times", TIMES)
async def test_r7_streams_are_right_again_after_the_subscribers_were_cut_off_many_times(
    serve: Serve, redis_server: RedisServer, redis_url: str, slack: float, times: int
) -> None:
    sites = await serve_many(serve, 2, settings_of(redis_url, resync_interval=RESYNC_S))
    ended: list[int] = []

    async def fault() -> None:
        for _ in range(times):
            ended.append(kill_subscribers(redis_server))
            await asyncio.sleep(0.2)

    await work_during(fault, sites, 6, 1 * slack)
    assert sum(ended) > times / 2


@pytest.mark.postgres
@pytest.mark.parametrize(("times", "pause_s"), PAUSES)
@pytest.mark.parametrize(
    "which", [pytest.param(LISTENER, id="listener", marks=pytest.mark.full), pytest.param("true", id="all")]
)
async def test_r35_streams_are_right_again_after_backends_were_terminated_many_times(
    serve: Serve, postgres_url: str, times: int, pause_s: float, which: str
) -> None:
    sites = await serve_many(serve, 2, settings_of(postgres_url, resync_interval=RESYNC_S))
    ended: list[int] = []

    async def fault() -> None:
        for _ in range(times):
            with suppress(asyncpg.PostgresError, OSError):
                ended.append(await terminate(postgres_url, f"({which})"))
            await asyncio.sleep(pause_s)

    await work_during(fault, sites, 6)
    assert sum(ended) > times / 2


async def test_streams_are_right_within_the_interval_when_every_message_is_discarded(
    serve: Serve, tmp_path: Path, slack: float
) -> None:
    path = tmp_path / "shared.db"
    sites = await serve_many(serve, 2, settings_of(f"sqlite+aiosqlite:///{path}", resync_interval=RESYNC_S))
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TRIGGER lost AFTER INSERT ON faststate_change BEGIN DELETE FROM faststate_change WHERE id = NEW.id; END"
        )
    connection.close()
    async with new_client() as client, tabs_on(sites, 6, "Counter") as tabs:
        for number in range(1, 3):
            await post(client, sites[0].url, "Counter/bump")
            await all_show(tabs, "Counter.count", number, (RESYNC_S + 0.5) * slack)
