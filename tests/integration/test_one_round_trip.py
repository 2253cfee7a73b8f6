"""A page that injects several states of one store asks the store once, whatever the framework."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import redis as redis_client
from fastapi import FastAPI
from fasthtml.common import fast_app
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import (
    FastStateMiddleware,
    Inject,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
    inject,
)
from faststate_asgi.stores.direct import DirectConnection
from faststate_asgi.stores.sql import SqlStore
from tests.hardening.wrapping import SECRET

pytestmark = pytest.mark.anyio


class First(ReactiveState):
    """For everybody."""

    count: int = 0

    @event
    def bump(self) -> None:
        """Add one."""
        self.count += 1


class Second(First):
    """For each session."""


class Third(First):
    """One for each record."""


class Hidden(First):
    """Only for those who are logged in."""


def make_registry() -> StateRegistry:
    registry = StateRegistry()
    registry.register(First, StateConfig(scope=StateScope.GLOBAL, namespace="first"))
    registry.register(Second, StateConfig(namespace="second"))
    registry.register(Third, StateConfig(scope=StateScope.RECORD, namespace="third", public=True))
    registry.register(Hidden, StateConfig(scope=StateScope.USER, namespace="hidden"))
    return registry


def text_of(first: First, second: First, third: First) -> str:
    return f"{first.count} {second.count} {third.count}"


def with_fasthtml() -> Any:
    app, rt = fast_app()

    @rt("/page/{record_id}")
    def get(first: First, second: Second, third: Third) -> PlainTextResponse:
        return PlainTextResponse(text_of(first, second, third))

    return app


def with_starlette() -> Any:
    @inject
    async def page(
        request: Request, first: First, second: Second, third: Third, hidden: Hidden | None
    ) -> PlainTextResponse:
        assert hidden is None
        return PlainTextResponse(text_of(first, second, third))

    return Starlette(routes=[Route("/page/{record_id}", page)])


def with_fastapi() -> Any:
    app = FastAPI()

    @app.get("/page/{record_id}")
    async def page(
        first: Annotated[First, Inject()], second: Annotated[Second, Inject()], third: Annotated[Third, Inject()]
    ) -> PlainTextResponse:
        return PlainTextResponse(text_of(first, second, third))

    return app


FRAMEWORKS = [with_fasthtml, with_starlette, with_fastapi]


@pytest.fixture(params=FRAMEWORKS)
def inner(request: pytest.FixtureRequest) -> Any:
    """A page with three states, in each framework."""
    return request.param()


@asynccontextmanager
async def visits(inner: Any, url: str) -> AsyncIterator[tuple[FastStateMiddleware, httpx.AsyncClient]]:
    """Yield a running app whose three states are stored, and the visitor whose they are."""
    app = FastStateMiddleware(inner, registry=make_registry(), secret_key=SECRET, store=url, debug=True)
    transport = httpx.ASGITransport(app)
    async with app.faststate, httpx.AsyncClient(transport=transport, base_url="http://site") as client:
        for name, times in (("First/bump", 1), ("Second/bump", 2), ("Third/bump?record_id=7", 3)):
            for _ in range(times):
                assert (await client.post(f"/faststate/events/{name}")).status_code == 200
        yield app, client


@pytest.mark.redis
async def test_a_page_with_three_states_reads_redis_once(inner: Any, redis_url: str) -> None:
    with redis_client.Redis.from_url(redis_url) as counter:

        def packets() -> int:
            return int(counter.info("stats")["total_reads_processed"])

        async with visits(inner, redis_url) as (_, client):
            own = packets()
            own = packets() - own  # what the question itself costs
            before = packets()
            assert (await client.get("/page/7")).text == "1 2 3"
            with_record = packets() - before - own
            client.cookies.clear()
            before = packets()
            assert (await client.get("/page/7")).text == "1 0 3"
            assert (with_record, packets() - before - own) == (2, 1), "the session's record, then the states"


async def test_a_page_with_three_states_asks_the_database_once(
    inner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with visits(inner, f"sqlite+aiosqlite:///{tmp_path}/app.db") as (_, client):
        statements: list[str] = []
        execute = DirectConnection.execute

        def noted(self: DirectConnection, statement: Any, values: Any = None) -> Any:
            statements.append(str(statement))
            return execute(self, statement, values)

        monkeypatch.setattr(DirectConnection, "execute", noted)
        assert (await client.get("/page/7")).text == "1 2 3"
        reads = [sql for sql in statements if "FROM faststate_state WHERE" in sql and sql.startswith("SELECT key")]
        assert len(reads) == 1


@pytest.mark.postgres
async def test_reading_in_postgres_is_one_statement_without_a_transaction(postgres_url: str) -> None:
    async with visits(with_fastapi(), postgres_url) as (app, client):
        (store,) = app.faststate.backends.stores.values()
        assert isinstance(store, SqlStore)
        engine = store._runner._engine.sync_engine  # type: ignore[attr-defined]  # PostgreSQL's
        statements: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            statements.append(statement)

        client.cookies.clear()
        sqlalchemy_event.listen(engine, "before_cursor_execute", note)
        assert (await client.get("/page/7")).text == "1 0 3"
        sqlalchemy_event.remove(engine, "before_cursor_execute", note)
        assert len([sql for sql in statements if "FROM faststate_state WHERE key IN" in sql]) == 1
        moments = text("SELECT now(), pg_sleep(0.01)")
        first = await store._ask(lambda connection: [connection.execute(moments).scalar() for _ in range(2)])
        assert first[0] != first[1], "a transaction would have one moment only"


async def test_what_was_read_ahead_is_not_older_than_a_transaction_of_the_same_request(tmp_path: Path) -> None:
    async def page(request: Request) -> PlainTextResponse:
        context = request.scope["faststate"]
        async with context.transaction(First) as first:
            first.count += 10
        return PlainTextResponse(str((await First.aget(request)).count))

    @inject
    async def route(request: Request, second: Second, first: First) -> PlainTextResponse:
        assert first.count == 1
        return await page(request)

    app = Starlette(routes=[Route("/page", route)])
    async with visits(app, f"sqlite+aiosqlite:///{tmp_path}/app.db") as (_, client):
        assert (await client.get("/page")).text == "11"
