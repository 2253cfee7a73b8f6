"""The servers that other tests rely on are real, fresh and gone afterwards."""

import os
from collections.abc import Callable

import asyncpg
import httpx
import pytest
from _pytest.outcomes import Failed, Skipped
from playwright.sync_api import Browser

from tests.conftest import Serve
from tests.services import PostgresServer, RedisServer, redis_running, require


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_missing_service_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(Failed, match="abacus is missing"):
        require("abacus", False)


def test_a_missing_service_skips_with_its_reason_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(Skipped, match="abacus is missing"):
        require("abacus", False)


def test_deadlines_are_never_shortened(slack: float) -> None:
    assert slack >= 1


@pytest.mark.anyio
async def test_async_tests_run_on_asyncio(anyio_backend_name: str) -> None:
    assert anyio_backend_name == "asyncio"


@pytest.mark.redis
def test_redis_answers_and_is_empty(redis_server: RedisServer, redis_url: str) -> None:
    assert redis_url == redis_server.url
    assert redis_server.command("PING") == b"+PONG\r\n"
    assert redis_server.command("DBSIZE") == b":0\r\n"


@pytest.mark.redis
def test_an_own_redis_takes_its_configuration(start_redis: Callable[..., RedisServer]) -> None:
    own = start_redis("--maxmemory", "2mb")
    assert b"2097152" in own.command("CONFIG", "GET", "maxmemory")


@pytest.mark.redis
def test_a_redis_is_gone_after_use_and_can_start_again_in_its_place() -> None:
    with redis_running() as first:
        pid, port = first.pid, first.port
    assert not is_alive(pid)
    with redis_running(port=port) as second:
        assert second.command("PING") == b"+PONG\r\n"


@pytest.mark.postgres
@pytest.mark.anyio
async def test_postgres_answers_in_a_fresh_database(postgres_server: PostgresServer, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    try:
        assert await connection.fetchval("SELECT 1") == 1
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert postgres_url != postgres_server.url
    finally:
        await connection.close()


def test_a_served_app_answers_with_its_environment(serve: Serve) -> None:
    site = serve("tests.apps.tiny:app", env={"GREETING": "hello"})
    answer = httpx.get(site.url).json()
    assert answer == {"pid": site.pid, "lifespan": ["started"], "greeting": "hello"}


def test_a_terminated_server_shuts_down_in_order(serve: Serve) -> None:
    site = serve("tests.apps.tiny:app")
    site.terminate()
    site.wait()
    assert "shut down in order" in site.log
    assert not is_alive(site.pid)


def test_a_killed_server_has_no_time_for_anything(serve: Serve) -> None:
    site = serve("tests.apps.tiny:app")
    site.kill()
    assert site.wait() == -9
    assert "shut down in order" not in site.log


def test_an_app_that_cannot_be_imported_is_reported_with_its_log(serve: Serve) -> None:
    with pytest.raises(RuntimeError, match="no_such_app"):
        serve("tests.apps.no_such_app:app")


@pytest.mark.browser
def test_the_browser_loads_a_page_and_runs_its_script(browser: Browser) -> None:
    page = browser.new_page()
    page.goto("data:text/html,<title>ok</title><script>document.title += '!'</script>")
    assert page.title() == "ok!"
    page.close()
