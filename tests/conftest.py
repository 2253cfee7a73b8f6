"""Fixtures that every test may use: real servers, a real browser, and the patience of this machine."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

from tests import services

# Our own servers are never behind a proxy, whatever this machine uses for the rest of the world.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

# A slow machine is no counterexample, and a run in CI is the same each time.
settings.register_profile("patient", deadline=None, derandomize=services.in_ci())
settings.load_profile("patient")


class Serve(Protocol):
    """Starts `module:attribute` under uvicorn; see `services.site_running` for the arguments."""

    def __call__(
        self,
        app: str,
        *args: str,
        env: dict[str, str] | None = None,
        port: int | None = None,
        cwd: Path = services.ROOT,
        ready_path: str = "/faststate/health",
    ) -> services.SiteServer:
        """Returns the server once it answers; it is stopped when the test ends."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, which is what uvicorn runs on."""
    return "asyncio"


@pytest.fixture(scope="session")
def slack() -> float:
    """By how much deadlines are stretched here: FASTSTATE_TEST_SLACK, else 3 in CI and 1 elsewhere."""
    return max(1.0, float(os.environ.get("FASTSTATE_TEST_SLACK") or (3 if services.in_ci() else 1)))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[services.RedisServer]:
    """One redis-server for the whole run; it must be left running."""
    with services.redis_running() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: services.RedisServer) -> str:
    """The address of the shared redis-server, emptied for this test."""
    redis_server.command("FLUSHALL")
    return redis_server.url


@pytest.fixture
def start_redis() -> Iterator[Callable[..., services.RedisServer]]:
    """Starts a redis-server for this test alone, with the given configuration arguments; it may be killed."""
    with ExitStack() as stack:

        def start(*config: str, port: int | None = None) -> services.RedisServer:
            return stack.enter_context(services.redis_running(*config, port=port))

        yield start


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[services.PostgresServer]:
    """One PostgreSQL cluster for the whole run; it must be left running."""
    with services.postgres_running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: services.PostgresServer) -> Iterator[str]:
    """The address of a new empty database, for this test alone."""
    with postgres_server.fresh_database() as url:
        yield url


@pytest.fixture
def start_postgres() -> Iterator[Callable[..., services.PostgresServer]]:
    """Starts a PostgreSQL cluster that belongs to this test alone; it may be killed."""
    with ExitStack() as stack:

        def start(*config: str, port: int | None = None) -> services.PostgresServer:
            return stack.enter_context(services.postgres_running(*config, port=port))

        yield start


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts apps under real uvicorn processes; all are stopped when the test ends."""
    with ExitStack() as stack:

        def start(
            app: str,
            *args: str,
            env: dict[str, str] | None = None,
            port: int | None = None,
            cwd: Path = services.ROOT,
            ready_path: str = "/faststate/health",
        ) -> services.SiteServer:
            running = services.site_running(app, *args, env=env, port=port, cwd=cwd, ready_path=ready_path)
            return stack.enter_context(running)

        yield start


@pytest.fixture
def start_nginx() -> Iterator[Callable[..., services.SiteServer]]:
    """Starts nginx in front of the server at a port, with the given further directives of its location."""
    with ExitStack() as stack:

        def start(upstream_port: int, directives: str = "") -> services.SiteServer:
            return stack.enter_context(services.nginx_running(upstream_port, directives))

        yield start


@pytest.fixture(scope="session")
def datastar_bundle() -> Path:
    """The real Datastar bundle, as a file."""
    services.require("the Datastar bundle (python tests/tools/fetch_datastar.py)", services.DATASTAR_BUNDLE.is_file())
    return services.DATASTAR_BUNDLE


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the machine's Chromium."""
    path = services.find_chromium()
    if path is None:
        services.absent("Chromium")
    return path


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """A real browser under Playwright's synchronous API: one per module, whose tests are all synchronous.

    Playwright keeps an event loop running in this thread for as long as it lives, so an `async def` test
    could not run beside it.
    """
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=chromium, args=list(services.CHROMIUM_FLAGS))
        yield instance
        instance.close()
