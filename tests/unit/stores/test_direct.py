"""SQLite's own statements in shared transactions: what fails alone is undone alone, and errors are SQLAlchemy's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, column, select, table, text
from sqlalchemy.exc import IntegrityError, OperationalError

from faststate_asgi.stores.runners import SqliteRunner

pytestmark = pytest.mark.anyio
PUT = text("INSERT INTO number (value) VALUES (:value) RETURNING value")
READ = text("SELECT value FROM number WHERE value IN :values ORDER BY value").bindparams(
    bindparam("values", expanding=True)
)
ALL = text("SELECT value FROM number ORDER BY value")


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[SqliteRunner]:
    made = SqliteRunner(f"sqlite:///{tmp_path}/x.db", 2)
    await made.open()
    await made.write(lambda connection: connection.execute(text("CREATE TABLE number (value INTEGER PRIMARY KEY)")))
    yield made
    await made.aclose()


def put(*values: int) -> Any:
    """An operation that inserts numbers one after the other."""
    return lambda connection: [connection.execute(PUT, {"value": value}).first()[0] for value in values]


async def stored(runner: SqliteRunner) -> list[int]:
    return [row[0] for row in await runner.ask(lambda connection: connection.execute(ALL).all())]


async def test_what_fails_alone_is_undone_alone(runner: SqliteRunner) -> None:
    outcomes = await asyncio.gather(
        *(runner.write(put(*values)) for values in [(1, 2), (3, 1), (4,)]), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [list, IntegrityError, list]
    assert await stored(runner) == [1, 2, 4]


async def test_an_operation_that_gives_up_undoes_only_itself(runner: SqliteRunner) -> None:
    def give_up(connection: Connection) -> str:
        put(5)(connection)
        connection.rollback()
        return "given up"

    outcomes = await asyncio.gather(runner.write(put(1)), runner.write(give_up), runner.write(put(2)))
    assert outcomes == [[1], "given up", [2]]
    assert await stored(runner) == [1, 2]


async def test_after_a_failure_others_share_transactions_as_before(runner: SqliteRunner) -> None:
    for value in range(3):
        outcomes = await asyncio.gather(runner.write(put(value)), runner.write(put(0)), return_exceptions=True)
        assert isinstance(outcomes[1], IntegrityError)
    assert await stored(runner) == [0, 1, 2]


async def test_lists_become_one_placeholder_for_each_item(runner: SqliteRunner) -> None:
    await runner.write(put(1, 2, 3))
    for wanted in ([], [2], [3, 1, 9]):
        rows = await runner.read(lambda connection, wanted=wanted: connection.execute(READ, {"values": wanted}).all())
        assert [row[0] for row in rows] == sorted(set(wanted) & {1, 2, 3})


async def test_statements_built_with_sqlalchemy_share_the_transaction(runner: SqliteRunner) -> None:
    def both(connection: Connection) -> list[Any]:
        put(7)(connection)
        return [tuple(row) for row in connection.execute(select(column("value")).select_from(table("number")))]

    assert await runner.write(both) == [(7,)]
    assert await stored(runner) == [7]


async def test_a_statement_that_cannot_run_fails_as_with_sqlalchemy(runner: SqliteRunner) -> None:
    for run in (runner.ask, runner.read, runner.write):
        with pytest.raises(OperationalError, match="no such table"):
            await run(lambda connection: connection.execute(text("SELECT 1 FROM nowhere")))
    assert await stored(runner) == []
