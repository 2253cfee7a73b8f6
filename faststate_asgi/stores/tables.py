"""``table=True`` states: rows of a table that other programs may read and write, as snapshots and back.

A row has no version, and a column for one would be foreign to whoever else writes the table. So the version of each
row is kept beside it in ``faststate_row``, together with a digest of what the row held then. A row that holds
something else was written by another program: its version is made of its own digest, the same in every process, so
that pages are brought up to date and a commit that is based on the old values is refused.

NOTE: what is kept beside a row that another program deletes stays; it counts again if the row comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json
from sqlalchemy import JSON, Column, Connection, DateTime, Integer, SmallInteger, Table, inspect, select
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from ..codec import Codec
from ..errors import ArgumentError, ConflictError, InvalidStateError
from ..key_column import KeyColumn
from ..keys import StateKey
from .base import NO_VERSION, Snapshot, Write
from .statements import Statements

_UNREADABLE = b""
_BITS = {Integer: 31, SmallInteger: 15}


class TableRows:
    """The rows of one ``table=True`` class; lives as long as the store.

    Args:
        name: of the class in keys.
        cls: the class.
        codec: its JSON forms.
        key_column: its primary key.
        shape: marks its snapshots.
    """

    def __init__(self, name: str, cls: Any, codec: Codec, key_column: KeyColumn, shape: str) -> None:
        self.name = name
        self._cls, self._codec, self._key_column, self._shape = cls, codec, key_column, shape
        mapper = inspect(cls)
        self.table: Table = mapper.local_table
        # Asking for the attributes also completes the mapping, once all classes that it may refer to are declared.
        columns = {attribute.key: attribute.columns[0] for attribute in mapper.column_attrs}
        self._columns: dict[str, Column[Any]] = {field: columns[field] for field in codec.stored}
        self._key: Column[Any] = self._columns[key_column.name]
        self._select = select(*(column.label(field) for field, column in self._columns.items()))

    @property
    def tables(self) -> list[Table]:
        """The table itself, and those that its foreign keys need."""
        found = {self.table}
        waiting = [self.table]
        while waiting:
            for key in waiting.pop().foreign_keys:
                other = key.column.table
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        return [table for table in self.table.metadata.sorted_tables if table in found]

    # -- reading -----------------------------------------------------------------------------------------------------

    def load(
        self, connection: Connection, sql: Statements, keys: Iterable[StateKey], *, locked: bool = False
    ) -> dict[StateKey, Snapshot]:
        """Return the snapshots of those rows that exist; one that cannot be read spoils no other.

        Args:
            connection: inside a transaction.
            sql: the store's statements.
            keys: of this class.
            locked: whether other programs shall wait with writing them until the transaction ends.
        """
        by_value = {value: key for key in keys if (value := self._value_of(key, sql)) is not None}
        if not by_value:
            return {}
        marks = connection.execute(sql.marks, {"keys": [str(key) for key in by_value.values()]}).all()
        known = {key: (version, digest) for key, version, digest in marks}
        query = self._select.where(self._key.in_(list(by_value)))
        found: dict[StateKey, Snapshot] = {}
        for values in self._fetch(connection, query.with_for_update() if locked else query, list(by_value)):
            # The column may compare more generously than a key does.
            key = by_value.get(values[self._key_column.name])
            if key is not None:
                found[key] = self._snapshot(values, known.get(str(key)))
        return found

    def _fetch(self, connection: Connection, query: Any, keys: Sequence[Any]) -> list[dict[str, Any]]:
        """Return rows as the values of fields; of one whose columns cannot be read only the key is known."""
        try:
            return [dict(row) for row in connection.execute(query).mappings()]
        except (LookupError, ValueError, TypeError):
            if len(keys) == 1:
                return [{self._key_column.name: keys[0]}]
            rows = [self._fetch(connection, self._select.where(self._key == key), [key]) for key in keys]
            return [values for found in rows for values in found]

    def _value_of(self, key: StateKey, sql: Statements) -> Any:
        """Return the value of a key's row in the key column, None if the column cannot hold it."""
        value = self._key_column.value_of(key)
        bits = next((bits for kind, bits in _BITS.items() if type(self._key.type) is kind), None)
        if type(value) is int and bits is not None and not sql.is_sqlite and not -(2**bits) <= value < 2**bits:
            return None
        return value

    def _snapshot(self, values: dict[str, Any], mark: tuple[str, str] | None) -> Snapshot:
        values = {field: self._as_read(field, value) for field, value in values.items()}
        data, digest = _UNREADABLE, "unreadable"
        if len(values) == len(self._columns):
            with suppress(InvalidStateError):
                data, digest = self._dump(values), self._digest(values)
        if mark is not None and mark[1] == digest:
            return Snapshot(mark[0], data, self._shape)
        number = NO_VERSION if mark is None else mark[0].partition("-")[0]
        return Snapshot(f"{number}-{digest[:16]}", data, self._shape)

    def _as_read(self, field: str, value: Any) -> Any:
        """Give back the time zone that SQLite does not keep: it was UTC."""
        kind = self._columns[field].type
        if isinstance(value, datetime) and isinstance(kind, DateTime) and kind.timezone and value.tzinfo is None:
            return value.replace(tzinfo=timezone.utc)
        return value

    def _dump(self, values: Mapping[str, Any]) -> bytes:
        state = object.__new__(self._cls)
        object.__setattr__(state, "__dict__", dict(values))
        return self._codec.dump(state)

    def _digest(self, values: Mapping[str, Any]) -> str:
        """Return what tells the contents of two rows apart; numbers and times count by value, not by spelling."""
        data = self._dump({field: _normal(value) for field, value in values.items()})
        return blake2b(data, digest_size=16).hexdigest()

    # -- writing -----------------------------------------------------------------------------------------------------

    def put(self, connection: Connection, sql: Statements, item: Write) -> bool:
        """Write one row; false if it is not as it was when the turn began, and nothing is written then.

        Raises:
            ConflictError: a unique, foreign key or check constraint refuses the row.
            ArgumentError: a column cannot hold a value.
        """
        stored = self.load(connection, sql, [item.key], locked=True).get(item.key)
        if (NO_VERSION if stored is None else stored.version) != item.before:
            return False
        try:
            self._write(connection, sql, item, is_new=stored is None)
        except IntegrityError as exc:
            raise ConflictError("The change breaks a rule of the table; another row may have this value") from exc
        except (StatementError, OverflowError) as exc:
            if isinstance(exc, DBAPIError) and not _is_bad_value(exc):
                raise
            raise ArgumentError("A value does not fit its column in the table") from exc
        return True

    def _write(self, connection: Connection, sql: Statements, item: Write, *, is_new: bool) -> None:
        value = self._value_of(item.key, sql)
        if item.data is None:
            connection.execute(self.table.delete().where(self._key == value))
            connection.execute(sql.drop_mark, {"key": str(item.key)})
            return
        values = self._codec.load(item.data).__dict__
        document = from_json(item.data)
        row = {
            column: document[field] if isinstance(column.type, JSON) else _as_written(column, values[field])
            for field, column in self._columns.items()
            if is_new or not item.fields or field in item.fields
        }
        if is_new:
            connection.execute(self.table.insert().values(row))
        else:
            connection.execute(self.table.update().where(self._key == value).values(row))
        mark = {"key": str(item.key), "version": item.version, "digest": self._digest(values)}
        connection.execute(sql.put_mark, mark)


def _normal(value: Any) -> Any:
    """Return a scalar in the one spelling that all databases keep."""
    if isinstance(value, Decimal) and value.is_finite():
        return value.normalize()
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(timezone.utc).replace(tzinfo=None)
    return value


def _as_written(column: Column[Any], value: Any) -> Any:
    """Return a value as its column takes it: a moment in a column without time zone is UTC."""
    if isinstance(value, datetime) and value.tzinfo is not None and isinstance(column.type, DateTime):
        moment = value.astimezone(timezone.utc)
        return moment if column.type.timezone else moment.replace(tzinfo=None)
    return value


def _is_bad_value(exc: DBAPIError) -> bool:
    """Whether a database refuses a value: too long, too large, of another type (SQLSTATE class 22)."""
    state = getattr(exc.orig, "sqlstate", None) or ""
    causes = {cls.__name__ for cls in type(getattr(exc.orig, "__cause__", None)).__mro__}
    return state.startswith("22") or "DataError" in causes or "DataError" in {cls.__name__ for cls in type(exc).__mro__}
