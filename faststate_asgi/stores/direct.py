"""SQLite without a detour: the package's own SQL goes to the driver as it is, which costs a fifth of SQLAlchemy's way."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, TextClause
from sqlalchemy.exc import DBAPIError

_LIST = re.compile(r"\bIN :(\w+)")
_lists: dict[str, tuple[str, ...]] = {}


Operation: TypeAlias = Callable[[Any], Any]
Result: TypeAlias = tuple[Any, BaseException | None]


class NeedsSavepoint(Exception):
    """An operation wants to be undone alone."""


class Rows(list[Any]):
    """All rows of a statement; what the package uses of SQLAlchemy's result."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        super().__init__(cursor.fetchall())
        self.rowcount = cursor.rowcount

    def first(self) -> Any:
        """Return the first row, None if there is none."""
        return self[0] if self else None

    def scalar(self) -> Any:
        """Return the first value of the first row, None if there is none."""
        return self[0][0] if self else None

    def all(self) -> list[Any]:
        """Return all rows."""
        return self


class DirectConnection:
    """A connection as operations of the store see it; ``rollback`` undoes only what the operation did.

    Args:
        connection: SQLAlchemy's, for the tables of users and all else that is not the package's own SQL.
        beginning: the statement that begins a transaction.
    """

    def __init__(self, connection: Connection, beginning: str) -> None:
        self._connection, self._beginning = connection, beginning
        self._has_savepoints = False
        self._driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]  # as made

    def run(self, sql: str) -> None:
        """Run a statement without values, such as one that begins a transaction."""
        try:
            self._driver.execute(sql)
        except sqlite3.Error as exc:
            raise _explained(sql, exc) from exc

    def execute(self, statement: Any, values: Mapping[str, Any] | None = None) -> Any:
        """Run a statement."""
        if type(statement) is not TextClause:
            return self._connection.execute(statement, values)
        sql, given = statement.text, values or {}
        lists = _lists.get(sql)
        if lists is None:
            lists = _lists[sql] = tuple(_LIST.findall(sql))
        if lists:
            sql, given = _spread(sql, lists, given)
        try:
            return Rows(self._driver.execute(sql, given))
        except sqlite3.Error as exc:
            raise _explained(sql, exc) from exc

    def rollback(self) -> None:
        """Undo the operation; it may have to be run again for that."""
        if not self._has_savepoints:
            raise NeedsSavepoint
        self.run("ROLLBACK TO one")

    def together(self, operations: Sequence[Operation]) -> list[Result]:
        """Run operations in one transaction; what fails alone is undone alone.

        At first without savepoints, which cost as much as a row: where something fails, all begin anew with them.
        """
        self.run(self._beginning)
        try:
            results: list[Result] = [(operation(self), None) for operation in operations]
        except Exception:
            self.run("ROLLBACK")
            self.run(self._beginning)
            self._has_savepoints = True
            try:
                results = [self._one(operation) for operation in operations]
            finally:
                self._has_savepoints = False
        self.run("COMMIT")
        return results

    def apart(self, operations: Sequence[Operation]) -> list[Result]:
        """Run operations of one reading statement each."""
        results: list[Result] = []
        for operation in operations:
            try:
                results.append((operation(self), None))
            except Exception as exc:
                results.append((None, exc))
        return results

    def _one(self, operation: Operation) -> Result:
        """Run one operation inside a savepoint."""
        self.run("SAVEPOINT one")
        try:
            return operation(self), None
        except Exception as exc:
            self.run("ROLLBACK TO one")
            return None, exc
        finally:
            self.run("RELEASE one")

    def end(self) -> None:
        """End what is left of a transaction, and tell SQLAlchemy, if it was used, that its own, empty one is over."""
        if self._driver.in_transaction:
            self.run("ROLLBACK")
        if self._connection.in_transaction():
            self._connection.rollback()

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _spread(sql: str, lists: tuple[str, ...], values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a statement with one placeholder for each item of its lists."""
    given = dict(values)
    for name in lists:
        items = given.pop(name)
        names = [f"{name}_{number}" for number in range(len(items))]
        given.update(zip(names, items, strict=True))
        sql = sql.replace(f"IN :{name}", f"IN ({', '.join(f':{one}' for one in names)})")
    return sql, given


def _explained(sql: str, exc: sqlite3.Error) -> BaseException:
    """Return SQLAlchemy's exception for one of the driver."""
    return DBAPIError.instance(sql, None, exc, sqlite3.Error)
