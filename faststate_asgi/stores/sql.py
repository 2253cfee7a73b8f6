"""The store in a database: SQLite in WAL mode (several processes of one machine) or PostgreSQL.

Every call is one short transaction; none is open while a handler runs. The tables are in ``metadata``, for Alembic;
``statements.py`` has the SQL and ``runners.py`` what runs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ..errors import (
    ConfigurationError,
    FastStateError,
    LeaseLostError,
    OverloadedError,
    StoreUnavailableError,
    shorten,
)
from ..keys import StateKey, StateScope
from ..messages import Published, addressed, encode, pieces
from .base import NO_VERSION, Answer, ImmediateStore, Lease, Remember, Snapshot, Write
from .runners import Operation, make_runner
from .sessions import EventSession, SessionSource
from .statements import metadata
from .tables import TableRows

__all__ = ["NOTIFY_CHANNEL", "SqlStore", "metadata"]

T = TypeVar("T")

ANSWERS_PER_OWNER = 1000
TRIM_EVERY = 4
POLL_S = (0.005, 0.05)
TRIES = 3
NOTIFY_CHANNEL = "faststate"
_NOT_THERE = re.compile("no such (table|column)|has no column named")
_OWNED = frozenset({StateScope.SESSION, StateScope.COMPONENT})


class SqlStore:
    """Implements ``Store`` on SQLite and PostgreSQL.

    Args:
        url: SQLAlchemy's, such as ``sqlite+aiosqlite:///app.db`` or ``postgresql+asyncpg://...``.
        lease_s: how long a turn lasts unless it is renewed.
        timeout_s: how long the database may take for one call.
        creates_tables: whether missing tables are made when the store opens.
        origin: names this process in announcements.
    """

    name = "database"
    is_shared = True
    immediate: ImmediateStore | None = None

    def __init__(
        self, url: str, *, lease_s: float, timeout_s: float, creates_tables: bool, origin: str | None = None
    ) -> None:
        self.origin = origin or secrets.token_hex(8)
        self._lease_s, self._creates_tables = lease_s, creates_tables
        self._timeout_s = timeout_s
        self._runner = make_runner(url, timeout_s)
        self._sql = self._runner.statements
        self._is_open = False
        self._kept = 0
        self.sessions = SessionSource(url, timeout_s)
        self._tables: dict[str, TableRows] = {}
        self._unmade: list[TableRows] = []

    async def open(self) -> None:
        """Connect, and make missing tables where that is wanted."""
        if self._is_open:
            return
        await self._runner.open()
        self._is_open = True
        if self._creates_tables:
            await self.create_tables()

    async def create_tables(self) -> None:
        """Make the tables that are missing."""
        unmade, self._unmade = self._unmade, []
        try:
            await self._guarded(lambda: self._runner.define(lambda connection: _make_tables(connection, unmade)))
        except BaseException:
            self._unmade += unmade
            raise

    def adopt(self, rows: TableRows) -> None:
        """Keep the states of a ``table=True`` class in its table from now on."""
        self._tables[rows.name] = rows
        self._unmade.append(rows)

    async def aclose(self) -> None:
        """Disconnect; idempotent."""
        if self._is_open:
            self._is_open = False
            await self.sessions.aclose()
            await self._runner.aclose()

    async def ping(self) -> None:
        """Raise ``StoreUnavailableError`` if the database does not answer."""
        await self._ask(lambda connection: connection.execute(text("SELECT 1")).scalar())

    # -- running -----------------------------------------------------------------------------------------------------

    async def _read(self, operation: Operation[T]) -> T:
        if self._unmade and self._creates_tables:
            await self.create_tables()
        return await self._guarded(lambda: self._runner.read(operation))

    async def _ask(self, operation: Operation[T]) -> T:
        """Run an operation of one statement."""
        return await self._guarded(lambda: self._runner.ask(operation))

    async def _write(self, operation: Operation[T]) -> T:
        if self._unmade and self._creates_tables:
            await self.create_tables()
        return await self._guarded(lambda: self._runner.write(operation))

    async def _guarded(self, run: Callable[[], Awaitable[T]]) -> T:
        """Run an operation that may be repeated in the time that is promised; name what went wrong in the package's own words.

        Raises:
            StoreUnavailableError: the database did not answer, also not when asked again.
            ConfigurationError: a table is missing.
        """
        repeats_until = time.monotonic() + self._timeout_s / 2  # each attempt may take as long as one call
        for attempt in range(TRIES):
            if not self._is_open:
                raise StoreUnavailableError("The database store is closed", headers={"Retry-After": "1"})
            try:
                return await run()
            except FastStateError:
                raise
            except ProgrammingError as exc:
                raise _missing_table(exc) from exc
            except (SQLAlchemyError, OSError, TimeoutError) as exc:
                if _NOT_THERE.search(str(exc)):
                    raise _missing_table(exc) from exc
                is_last = attempt == TRIES - 1 or time.monotonic() > repeats_until
                if is_last or not _is_worth_repeating(exc):
                    raise StoreUnavailableError(
                        "The database does not answer; please try again", headers={"Retry-After": "1"}
                    ) from exc
                await asyncio.sleep(random.uniform(0, 0.05))
        raise AssertionError("the last attempt returns or raises")

    # -- states ------------------------------------------------------------------------------------------------------

    async def read(self, keys: Sequence[StateKey]) -> list[Snapshot | None]:
        """Return what is stored, in one query."""
        run = self._read if any(key.name in self._tables for key in keys) else self._ask
        found = await run(lambda connection: self._load(connection, keys))
        return [found.get(key) for key in keys]

    def _load(self, connection: Connection, keys: Sequence[StateKey]) -> dict[StateKey, Snapshot]:
        by_text: dict[str, StateKey] = {}
        of_tables: dict[str, list[StateKey]] = {}
        for key in keys:
            if key.name in self._tables:
                of_tables.setdefault(key.name, []).append(key)
            else:
                by_text[str(key)] = key
        found: dict[StateKey, Snapshot] = {}
        if by_text:
            rows = connection.execute(self._sql.read, {"keys": list(by_text)})
            found = {by_text[row[0]]: Snapshot(row[1], _bytes(row[2]), row[3]) for row in rows}
        for name, mine in of_tables.items():
            found.update(self._tables[name].load(connection, self._sql, mine))
        return found

    async def acquire(self, keys: Sequence[StateKey], *, wait_s: float, recall: Sequence[str] = ()) -> Lease:
        """Take the turn once it is free; asks again with a growing, random pause."""
        holder = os.urandom(16).hex()  # programs seed ``random``
        deadline = time.monotonic() + wait_s
        pause_s = POLL_S[0]
        while True:
            taking = asyncio.ensure_future(self._write(lambda connection: self._take(connection, keys, holder, recall)))
            try:
                lease = await asyncio.shield(taking)
            except asyncio.CancelledError:
                # It may be taken in this very moment: give it back when that is known.
                taking.add_done_callback(self._give_back)
                raise
            if lease is not None:
                return lease
            if time.monotonic() + pause_s > deadline:
                raise OverloadedError("Busy; please try again", headers={"Retry-After": "1"})
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 1.5, POLL_S[1])

    def _give_back(self, taking: asyncio.Future[Lease | None]) -> None:
        if not taking.cancelled() and taking.exception() is None and (lease := taking.result()) is not None:
            self._abandoned = asyncio.ensure_future(self.release(lease))

    def _take(
        self, connection: Connection, keys: Sequence[StateKey], holder: str, recall: Sequence[str] = ()
    ) -> Lease | None:
        fence = 0
        for key in keys:
            row = connection.execute(
                self._sql.take, {"key": str(key), "holder": holder, "lease_s": self._lease_s}
            ).first()
            if row is None:
                if fence:
                    connection.rollback()
                return None
            fence = max(fence, row[0])
        found = self._load(connection, keys)
        answers = self._recall(connection, recall) if recall else {}
        return Lease(tuple(keys), fence, holder, {key: found.get(key) for key in keys}, answers)

    async def renew(self, lease: Lease) -> None:
        """Hold the turn for another lease time."""
        await self._write(lambda connection: self._hold(connection, lease, self._sql.renew))

    def _hold(self, connection: Connection, lease: Lease, statement: TextClause) -> None:
        """Renew or release a lease that is still held.

        Raises:
            LeaseLostError: somebody else has had the turn since.
        """
        for key in lease.keys:
            values = {"key": str(key), "holder": lease.holder, "lease_s": self._lease_s}
            if statement is self._sql.release:
                del values["lease_s"]
            if connection.execute(statement, values).first() is None:
                raise LeaseLostError("The change came too late and was not made; please try again")

    async def commit(
        self,
        lease: Lease,
        writes: Sequence[Write],
        *,
        commit_id: str,
        remember: Sequence[Remember] = (),
        release: bool = True,
    ) -> None:
        """Store everything and announce it in one transaction."""
        await self._write(lambda connection: self._commit(connection, lease, writes, commit_id, remember, release))

    def _commit(
        self,
        connection: Connection,
        lease: Lease,
        writes: Sequence[Write],
        commit_id: str,
        remember: Sequence[Remember],
        release: bool,
    ) -> None:
        if connection.execute(self._sql.begin_commit, {"id": commit_id}).first() is None:
            return
        self._hold(connection, lease, self._sql.release if release else self._sql.renew)
        for item in writes:
            if not self._put(connection, item):
                raise LeaseLostError("The state was changed meanwhile; please try again")
        self._keep(connection, remember)
        for item in writes:
            self._announce(connection, encode(Published(item.key, item.before, item.version)))

    def _put(self, connection: Connection, item: Write) -> Any:
        table = self._tables.get(item.key.name)
        if table is not None:
            return table.put(connection, self._sql, item)
        if item.data is None:
            return connection.execute(self._sql.delete, {"key": str(item.key), "before": item.before}).first()
        values = {
            "key": str(item.key),
            "version": item.version,
            "data": item.data.decode(),
            "shape": item.shape,
            "ttl_s": item.ttl_s,
        }
        if item.before == NO_VERSION:
            owned = item.key.session_id if item.key.scope in _OWNED else None
            return connection.execute(self._sql.insert, {**values, "session_id": owned}).first()
        return connection.execute(self._sql.update, {**values, "before": item.before}).first()

    def _announce(self, connection: Connection, message: str) -> None:
        """Tell other processes in the same transaction."""
        if self._runner.does_log:
            connection.execute(self._sql.log_change, {"origin": self.origin, "message": message})
        else:
            for piece in pieces(addressed(message, self.origin)):
                connection.execute(self._sql.notify, {"channel": NOTIFY_CHANNEL, "message": piece})

    def session(self, *, is_async: bool) -> EventSession:
        """Return a session for one event, whose rows are committed together with states of this store.

        Raises:
            ConfigurationError: a driver is missing, or the database is in memory.
        """
        return self.sessions.open(self, is_async=is_async)

    async def commit_in(
        self,
        session: EventSession,
        lease: Lease,
        writes: Sequence[Write],
        *,
        commit_id: str,
        remember: Sequence[Remember] = (),
    ) -> None:
        """Do what ``commit`` does in the transaction of a handler's session.

        It cannot be repeated, as it holds rows of the handler; whether one that broke off was committed is asked.
        """

        def operation(connection: Connection) -> None:
            self._commit(connection, lease, writes, commit_id, remember, release=True)

        try:
            await session.commit(operation)
        except FastStateError:
            raise
        except (SQLAlchemyError, OSError, TimeoutError) as exc:
            error = session.explained(exc)
            if isinstance(error, FastStateError) and not isinstance(error, StoreUnavailableError):
                raise error from exc
            if not await self._was_committed(commit_id):
                raise StoreUnavailableError(
                    "The database does not answer; please try again", headers={"Retry-After": "1"}
                ) from exc

    async def _was_committed(self, commit_id: str) -> bool:
        """Whether a commit has happened; if not, it cannot happen any more, as its id is taken."""
        values = {"id": commit_id}
        return await self._write(lambda connection: connection.execute(self._sql.begin_commit, values).first()) is None

    async def announce(self, messages: Sequence[str]) -> None:
        """Tell other processes something that is no change of a state."""

        def tell(connection: Connection) -> None:
            for message in messages:
                self._announce(connection, message)

        await self._write(tell)

    async def release(self, lease: Lease) -> None:
        """Give the turn back; one that was lost already is ignored."""

        def give(connection: Connection) -> None:
            for key in lease.keys:
                connection.execute(self._sql.release, {"key": str(key), "holder": lease.holder})

        await self._write(give)

    async def touch(self, keys: Sequence[tuple[StateKey, float]]) -> None:
        """Move the expiry of watched states."""

        def move(connection: Connection) -> None:
            for key, ttl_s in keys:
                connection.execute(self._sql.touch, {"key": str(key), "ttl_s": ttl_s})

        await self._write(move)

    async def delete_session(self, session_id: str, *, keep: Collection[StateKey] = ()) -> list[StateKey]:
        """Delete what belongs to a session, and announce it."""
        return await self._write(lambda connection: self._drop_session(connection, session_id, keep))

    def _drop_session(self, connection: Connection, session_id: str, keep: Collection[StateKey]) -> list[StateKey]:
        rows = connection.execute(self._sql.session, {"session_id": session_id}).all()
        deleted: list[StateKey] = []
        for key_text, version in rows:
            key = StateKey.parse(key_text)
            if key not in keep:
                connection.execute(self._sql.delete, {"key": key_text, "before": version})
                self._announce(connection, encode(Published(key, version, NO_VERSION)))
                deleted.append(key)
        return deleted

    async def purge(self, limit: int) -> int:
        """Delete expired rows, a bounded number of each table; one process at a time, the others have nothing to do."""

        def delete(connection: Connection) -> int:
            lock = self._sql.purge_lock
            if lock is not None and not connection.execute(lock).scalar():
                return 0
            counts = [connection.execute(statement, {"limit": limit}).rowcount for statement in self._sql.purge]
            return sum(counts[:3])

        return await self._write(delete)

    async def count(self) -> int:
        """Return the number of stored states."""
        return await self._ask(lambda connection: int(connection.execute(self._sql.count).scalar() or 0))

    # -- answers and records -----------------------------------------------------------------------------------------

    async def recall(self, names: Sequence[str]) -> Answer | None:
        """Return a kept answer."""
        return next(iter((await self.recall_all(names)).values()), None)

    async def recall_all(self, names: Sequence[str]) -> dict[str, Answer]:
        """Return kept answers by name."""
        return await self._ask(lambda connection: self._recall(connection, names))

    def _recall(self, connection: Connection, names: Sequence[str]) -> dict[str, Answer]:
        rows = connection.execute(self._sql.recall, {"names": list(names)})
        return {
            row[0]: Answer(bytes(row[1]), row[2], load_headers(row[3]), None if row[4] is None else bytes(row[4]))
            for row in rows
        }

    async def remember(self, items: Sequence[Remember]) -> None:
        """Keep answers."""
        await self._write(lambda connection: self._keep(connection, items))

    def _keep(self, connection: Connection, items: Sequence[Remember]) -> None:
        for item in items:
            answer = item.answer
            for name in item.names:
                values = {
                    "name": name,
                    "owner": item.owner,
                    "digest": answer.digest,
                    "status": answer.status,
                    "headers": dump_headers(answer.headers),
                    "body": answer.body,
                    "ttl_s": item.ttl_s,
                }
                connection.execute(self._sql.keep, values)
            self._kept += 1
            if item.owner and self._kept % TRIM_EVERY == 0:
                connection.execute(self._sql.trim, {"owner": item.owner, "keep": ANSWERS_PER_OWNER})

    async def get_records(self, names: Sequence[str]) -> list[bytes | None]:
        """Return records that have not expired."""
        rows = await self._ask(lambda connection: connection.execute(self._sql.records, {"names": list(names)}).all())
        found = {row[0]: bytes(row[1]) for row in rows}
        return [found.get(name) for name in names]

    async def put_records(self, records: Mapping[str, tuple[bytes | None, float]]) -> None:
        """Store records together."""

        def put(connection: Connection) -> None:
            for name, (value, ttl_s) in records.items():
                if value is None:
                    connection.execute(self._sql.drop_record, {"name": name})
                else:
                    connection.execute(self._sql.put_record, {"name": name, "value": value, "ttl_s": ttl_s})

        await self._write(put)


def dump_headers(headers: tuple[tuple[bytes, bytes], ...]) -> str:
    """Return headers as text."""
    return json.dumps([[b64encode(name).decode(), b64encode(value).decode()] for name, value in headers])


def load_headers(stored: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return headers from text."""
    return tuple((b64decode(name), b64decode(value)) for name, value in json.loads(stored))


def _make_tables(connection: Connection, unmade: Sequence[TableRows]) -> None:
    """Make the tables that are missing, the package's own first; one process at a time, or two would make the same."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('faststate tables'))"))
    metadata.create_all(connection)
    for rows in unmade:
        rows.table.metadata.create_all(connection, tables=rows.tables)


def _bytes(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


def _missing_table(exc: SQLAlchemyError | OSError) -> ConfigurationError:
    cause = getattr(exc, "orig", None) or exc
    return ConfigurationError(
        f"a table of faststate is missing or has another form ({shorten(str(cause))}); make the package's own and those of your "
        "table=True states with: python -m faststate_asgi create-tables module:app"
    )


def _is_worth_repeating(exc: BaseException) -> bool:
    """Whether the same operation may succeed now: a broken connection, a serialization failure, a deadlock."""
    if isinstance(exc, PoolTimeoutError):
        return False
    if isinstance(exc, DBAPIError):
        return "locked" not in str(exc.orig)
    return isinstance(exc, (OSError, TimeoutError))
