"""The store in a database: SQLite in WAL mode (several processes of one machine) or PostgreSQL.

Every call is one short transaction; none is open while a handler runs. On SQLite one thread writes and commits what
has come together, another one reads. The tables are in ``metadata``, for Alembic.
"""

from __future__ import annotations

import asyncio
import json
import queue
import random
import secrets
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    bindparam,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import StaticPool

from ..errors import (
    ConfigurationError,
    FastStateError,
    LeaseLostError,
    MissingDependencyError,
    OverloadedError,
    StoreUnavailableError,
)
from ..keys import StateKey, StateScope
from ..messages import Published, addressed, encode
from .base import NO_VERSION, Answer, ImmediateStore, Lease, Remember, Snapshot, Write

T = TypeVar("T")
Operation = Callable[[Connection], T]

ANSWERS_PER_OWNER = 1000
TRIM_EVERY = 4
COMMIT_IDS_S = 600.0
CHANGES_S = 60.0
LEASES_S = 86400.0
POLL_S = (0.005, 0.05)
TRIES = 3
NOTIFY_CHANNEL = "faststate"
_OWNED = frozenset({StateScope.SESSION, StateScope.COMPONENT})

metadata = MetaData()
"""The tables of the package."""

_state = Table(
    "faststate_state",
    metadata,
    Column("key", String(2048), primary_key=True),
    Column("session_id", String(256), index=True),
    Column("version", String(64), nullable=False),
    Column("data", Text, nullable=False),
    Column("shape", String(64), nullable=False),
    Column("expires_at", Double, index=True),
)
_lease = Table(
    "faststate_lease",
    metadata,
    Column("key", String(2048), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("holder", String(64), nullable=False),
    Column("expires_at", Double, nullable=False),
)
_answer = Table(
    "faststate_answer",
    metadata,
    Column("name", String(512), primary_key=True),
    Column("owner", String(256), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("status", Integer, nullable=False),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary),
    Column("expires_at", Double, nullable=False, index=True),
    Index("faststate_answer_owner", "owner", "expires_at"),
)
_record = Table(
    "faststate_record",
    metadata,
    Column("name", String(512), primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
)
_commit = Table(
    "faststate_commit",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at", Double, nullable=False, index=True),
)
_change = Table(
    "faststate_change",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("origin", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("at", Double, nullable=False, index=True),
    sqlite_autoincrement=True,
)


class _Statements:
    """The SQL of one dialect; the clock is the database's own."""

    def __init__(self, now: str) -> None:
        def sql(template: str) -> TextClause:
            return text(template.replace("NOW", now))

        def of_many(template: str, name: str) -> TextClause:
            return sql(template).bindparams(bindparam(name, expanding=True))

        alive = "(expires_at IS NULL OR expires_at > NOW)"
        # SQLite takes any bytes as text: bytes that are none must fail where their state is loaded, not all that is read.
        data = "data" if "epoch" in now else "CAST(data AS BLOB)"
        self.read = of_many(
            f"SELECT key, version, {data}, shape FROM faststate_state WHERE key IN :keys AND {alive}",
            "keys",
        )
        self.take = sql(
            "INSERT INTO faststate_lease (key, fence, holder, expires_at) VALUES (:key, 1, :holder, NOW + :lease_s) "
            "ON CONFLICT (key) DO UPDATE SET fence = faststate_lease.fence + 1, holder = excluded.holder, "
            "expires_at = excluded.expires_at WHERE faststate_lease.expires_at <= NOW RETURNING fence"
        )
        # The holder's name is random and new each time; each key of a lease has a fence of its own.
        held = "WHERE key = :key AND holder = :holder RETURNING key"
        self.renew = sql(f"UPDATE faststate_lease SET expires_at = NOW + :lease_s {held}")
        self.release = sql(f"UPDATE faststate_lease SET holder = '', expires_at = 0 {held}")
        self.begin_commit = sql(
            "INSERT INTO faststate_commit (id, at) VALUES (:id, NOW) ON CONFLICT (id) DO NOTHING RETURNING id"
        )
        ttl = "CASE WHEN :ttl_s IS NULL THEN NULL ELSE NOW + :ttl_s END".replace(":ttl_s", "CAST(:ttl_s AS REAL)")
        if "epoch" in now:
            ttl = ttl.replace("REAL", "double precision")
        self.insert = sql(
            "INSERT INTO faststate_state (key, session_id, version, data, shape, expires_at) "
            f"VALUES (:key, :session_id, :version, :data, :shape, {ttl}) "
            "ON CONFLICT (key) DO UPDATE SET version = excluded.version, data = excluded.data, "
            "shape = excluded.shape, expires_at = excluded.expires_at "
            "WHERE faststate_state.expires_at IS NOT NULL AND faststate_state.expires_at <= NOW RETURNING key"
        )
        self.update = sql(
            f"UPDATE faststate_state SET version = :version, data = :data, shape = :shape, expires_at = {ttl} "
            "WHERE key = :key AND version = :before RETURNING key"
        )
        self.delete = sql("DELETE FROM faststate_state WHERE key = :key AND version = :before RETURNING key")
        self.touch = sql("UPDATE faststate_state SET expires_at = NOW + :ttl_s WHERE key = :key AND expires_at > NOW")
        self.session = sql("SELECT key, version FROM faststate_state WHERE session_id = :session_id")
        self.count = sql(f"SELECT count(*) FROM faststate_state WHERE {alive}")
        self.recall = of_many(
            "SELECT digest, status, headers, body FROM faststate_answer WHERE name IN :names AND expires_at > NOW",
            "names",
        )
        self.keep = sql(
            "INSERT INTO faststate_answer (name, owner, digest, status, headers, body, expires_at) "
            "VALUES (:name, :owner, :digest, :status, :headers, :body, NOW + :ttl_s) ON CONFLICT (name) DO UPDATE SET "
            "owner = excluded.owner, digest = excluded.digest, status = excluded.status, headers = excluded.headers, "
            "body = excluded.body, expires_at = excluded.expires_at"
        )
        self.trim = sql(
            "DELETE FROM faststate_answer WHERE name IN (SELECT name FROM faststate_answer WHERE owner = :owner "
            "ORDER BY expires_at DESC LIMIT 1000000 OFFSET :keep)"
        )
        self.records = of_many(
            "SELECT name, value FROM faststate_record WHERE name IN :names AND expires_at > NOW", "names"
        )
        self.put_record = sql(
            "INSERT INTO faststate_record (name, value, expires_at) VALUES (:name, :value, NOW + :ttl_s) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"
        )
        self.drop_record = sql("DELETE FROM faststate_record WHERE name = :name")
        self.log_change = sql("INSERT INTO faststate_change (origin, message, at) VALUES (:origin, :message, NOW)")
        self.notify = sql("SELECT pg_notify(:channel, :message)")
        self.purge = [
            # The age is asked twice: a row that was written again meanwhile is looked at again by the outer condition only.
            sql(
                f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} "
                f"WHERE {column} <= NOW - {age_s} LIMIT :limit) AND {column} <= NOW - {age_s}"
            )
            for table, key, column, age_s in (
                ("faststate_state", "key", "expires_at", 0),
                ("faststate_answer", "name", "expires_at", 0),
                ("faststate_record", "name", "expires_at", 0),
                ("faststate_commit", "id", "at", COMMIT_IDS_S),
                ("faststate_change", "id", "at", CHANGES_S),
                ("faststate_lease", "key", "expires_at", LEASES_S),
            )
        ]


SQLITE = _Statements("((julianday('now') - 2440587.5) * 86400.0)")
POSTGRES = _Statements("CAST(extract(epoch from clock_timestamp()) AS double precision)")


class Runner(Protocol):
    """Runs operations, each in a transaction of its own."""

    statements: _Statements
    does_log: bool
    """Whether changes are announced by the change log (SQLite) or by NOTIFY."""

    async def open(self) -> None:
        """Connect."""

    async def aclose(self) -> None:
        """Disconnect."""

    def write(self, operation: Operation[T]) -> Awaitable[T]:
        """Run an operation that may write."""
        ...

    def read(self, operation: Operation[T]) -> Awaitable[T]:
        """Run an operation that only reads."""
        ...


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
        self._runner = make_runner(url, timeout_s)
        self._sql = self._runner.statements
        self._is_open = False
        self._kept = 0

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
        await self._guarded(lambda: self._runner.write(lambda connection: metadata.create_all(connection)))

    async def aclose(self) -> None:
        """Disconnect; idempotent."""
        if self._is_open:
            self._is_open = False
            await self._runner.aclose()

    async def ping(self) -> None:
        """Raise ``StoreUnavailableError`` if the database does not answer."""
        await self._read(lambda connection: connection.execute(text("SELECT 1")).scalar())

    # -- running -----------------------------------------------------------------------------------------------------

    async def _read(self, operation: Operation[T]) -> T:
        return await self._guarded(lambda: self._runner.read(operation))

    async def _write(self, operation: Operation[T]) -> T:
        return await self._guarded(lambda: self._runner.write(operation))

    async def _guarded(self, run: Callable[[], Awaitable[T]]) -> T:
        """Run an operation that may be repeated, and say what went wrong in the package's own words.

        Raises:
            StoreUnavailableError: the database did not answer, also not when asked again.
            ConfigurationError: a table is missing.
        """
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
                if "no such table" in str(exc):
                    raise _missing_table(exc) from exc
                if attempt == TRIES - 1 or not _is_worth_repeating(exc):
                    raise StoreUnavailableError(
                        "The database does not answer; please try again", headers={"Retry-After": "1"}
                    ) from exc
                await asyncio.sleep(random.uniform(0, 0.05))
        raise AssertionError("the last attempt returns or raises")

    # -- states ------------------------------------------------------------------------------------------------------

    async def read(self, keys: Sequence[StateKey]) -> list[Snapshot | None]:
        """Return what is stored, in one query."""
        found = await self._read(lambda connection: self._load(connection, keys))
        return [found.get(key) for key in keys]

    def _load(self, connection: Connection, keys: Sequence[StateKey]) -> dict[StateKey, Snapshot]:
        by_text = {str(key): key for key in keys}
        rows = connection.execute(self._sql.read, {"keys": list(by_text)})
        return {by_text[row[0]]: Snapshot(row[1], _bytes(row[2]), row[3]) for row in rows}

    async def acquire(self, keys: Sequence[StateKey], *, wait_s: float) -> Lease:
        """Take the turn once it is free; asks again with a growing, random pause."""
        holder = secrets.token_hex(16)
        deadline = time.monotonic() + wait_s
        pause_s = POLL_S[0]
        while True:
            taking = asyncio.ensure_future(self._write(lambda connection: self._take(connection, keys, holder)))
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

    def _take(self, connection: Connection, keys: Sequence[StateKey], holder: str) -> Lease | None:
        fence = 0
        for key in keys:
            row = connection.execute(
                self._sql.take, {"key": str(key), "holder": holder, "lease_s": self._lease_s}
            ).first()
            if row is None:
                connection.rollback()
                return None
            fence = max(fence, row[0])
        found = self._load(connection, keys)
        return Lease(tuple(keys), fence, holder, {key: found.get(key) for key in keys})

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
            if self._put(connection, item) is None:
                raise LeaseLostError("The state was changed meanwhile; please try again")
        self._keep(connection, remember)
        for item in writes:
            self._announce(connection, encode(Published(item.key, item.before, item.version)))

    def _put(self, connection: Connection, item: Write) -> Any:
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
            payload = addressed(message, self.origin)
            connection.execute(self._sql.notify, {"channel": NOTIFY_CHANNEL, "message": payload})

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
        """Delete expired rows, a bounded number of each table."""

        def delete(connection: Connection) -> int:
            counts = [connection.execute(statement, {"limit": limit}).rowcount for statement in self._sql.purge]
            return sum(counts[:3])

        return await self._write(delete)

    async def count(self) -> int:
        """Return the number of stored states."""
        return await self._read(lambda connection: int(connection.execute(self._sql.count).scalar() or 0))

    # -- answers and records -----------------------------------------------------------------------------------------

    async def recall(self, names: Sequence[str]) -> Answer | None:
        """Return a kept answer."""
        row = await self._read(lambda connection: connection.execute(self._sql.recall, {"names": list(names)}).first())
        if row is None:
            return None
        return Answer(bytes(row[0]), row[1], load_headers(row[2]), None if row[3] is None else bytes(row[3]))

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
        rows = await self._read(lambda connection: connection.execute(self._sql.records, {"names": list(names)}).all())
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


def _bytes(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


def _missing_table(exc: BaseException) -> ConfigurationError:
    return ConfigurationError(
        f"a table of faststate is missing or has another form ({type(exc).__name__}); "
        "make the tables with: python -m faststate_asgi create-tables"
    )


def _is_worth_repeating(exc: BaseException) -> bool:
    """Whether the same operation may succeed now: a broken connection, a serialization failure, a deadlock."""
    if isinstance(exc, PoolTimeoutError):
        return False
    if isinstance(exc, DBAPIError):
        return "locked" not in str(exc.orig)
    return isinstance(exc, (OSError, TimeoutError))


# -- SQLite ----------------------------------------------------------------------------------------------------------


class SqliteRunner:
    """Two threads on one file: one writes, and commits together what has come together; one reads.

    Args:
        url: the file's.
        timeout_s: how long another program's lock is waited for.
    """

    statements = SQLITE
    does_log = True

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = make_url(url).set(drivername="sqlite")
        self._timeout_s = timeout_s
        self._is_in_memory = self.url.database in (None, "", ":memory:")
        self._writer: _SqliteThread | None = None
        self._reader: _SqliteThread | None = None
        self._engine: Engine | None = None

    async def open(self) -> None:
        """Start the threads."""
        self._engine = sqlite_engine(str(self.url.render_as_string(hide_password=False)), self._timeout_s)
        self._writer = _SqliteThread(self._engine, is_writer=True)
        self._reader = self._writer if self._is_in_memory else _SqliteThread(self._engine, is_writer=False)

    async def aclose(self) -> None:
        """End the threads once they have done what was asked of them."""
        threads = {thread for thread in (self._writer, self._reader) if thread is not None}
        for thread in threads:
            thread.close()
        for thread in threads:
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
        if self._engine is not None:
            self._engine.dispose()

    def write(self, operation: Operation[T]) -> Awaitable[T]:
        """Run in the writer's next transaction."""
        assert self._writer is not None, "open() comes first"
        return self._writer.submit(operation)

    def read(self, operation: Operation[T]) -> Awaitable[T]:
        """Run beside the writer."""
        assert self._reader is not None, "open() comes first"
        return self._reader.submit(operation)


def sqlite_engine(url: str, timeout_s: float) -> Engine:
    """Return a synchronous engine on a SQLite file in WAL mode, whose transactions are begun by hand."""
    in_memory = make_url(url).database in (None, "", ":memory:")
    options: dict[str, Any] = {"poolclass": StaticPool} if in_memory else {}
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": timeout_s}, **options)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA busy_timeout={int(timeout_s * 1000)}")

    return engine


class _SqliteThread:
    """One thread with one connection; what waits when a transaction begins becomes part of it."""

    def __init__(self, engine: Engine, *, is_writer: bool) -> None:
        self._engine, self._is_writer = engine, is_writer
        self._queue: queue.SimpleQueue[tuple[Operation[Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        name = "faststate-sqlite-writer" if is_writer else "faststate-sqlite-reader"
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T]) -> Awaitable[T]:
        """Queue an operation; what it returns comes after the commit."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((operation, future))
        return future

    def close(self) -> None:
        """End after what is queued."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        connection: Connection | None = None
        while True:
            item = self._queue.get()
            batch = [item]
            while len(batch) < 128 and batch[-1] is not None:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            work = [entry for entry in batch if entry is not None]
            if work:
                connection = self._run(connection, work)
            if batch[-1] is None:
                if connection is not None:
                    connection.close()
                return

    def _run(
        self, connection: Connection | None, work: list[tuple[Operation[Any], asyncio.Future[Any]]]
    ) -> Connection | None:
        """Run a batch in one transaction; what fails alone is undone alone."""
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            connection = connection or self._engine.connect()
            connection.exec_driver_sql("BEGIN IMMEDIATE" if self._is_writer else "BEGIN")
            for operation, future in work:
                outcomes.append((future, *self._one(connection, operation, is_alone=len(work) == 1)))
            connection.exec_driver_sql("COMMIT")
        except Exception as exc:
            if connection is not None:
                with suppress(Exception):
                    connection.exec_driver_sql("ROLLBACK")
                with suppress(Exception):
                    connection.rollback()
            outcomes = [(future, None, exc) for _, future in work]
        else:
            connection.rollback()  # tells SQLAlchemy that its own, empty transaction is over
        for outcome in outcomes:
            with suppress(RuntimeError):
                outcome[0].get_loop().call_soon_threadsafe(_settle, *outcome)
        return connection

    def _one(self, connection: Connection, operation: Operation[Any], *, is_alone: bool) -> tuple[Any, Any]:
        """Run one operation inside a savepoint."""
        savepoint = _Savepoint(connection)
        connection.exec_driver_sql("SAVEPOINT one")
        try:
            result = operation(savepoint)  # type: ignore[arg-type]  # a connection that can only undo itself
        except Exception as exc:
            connection.exec_driver_sql("ROLLBACK TO one")
            connection.exec_driver_sql("RELEASE one")
            return None, exc
        connection.exec_driver_sql("RELEASE one")
        return result, None


class _Savepoint:
    """A connection as operations see it: ``rollback`` undoes only what the operation did."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rollback(self) -> None:
        """Undo the operation."""
        self._connection.exec_driver_sql("ROLLBACK TO one")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


# -- PostgreSQL ------------------------------------------------------------------------------------------------------


class PostgresRunner:
    """A pool of asyncpg connections; none is held between two calls.

    Args:
        url: the database's.
        timeout_s: how long one call may take.
    """

    statements = POSTGRES
    does_log = False

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = make_url(url), timeout_s
        self._engine: Any = None

    async def open(self) -> None:
        """Make the pool; connections are made when they are needed."""
        from sqlalchemy.ext.asyncio import create_async_engine

        if find_spec("asyncpg") is None:
            raise MissingDependencyError("PostgreSQL needs asyncpg: pip install 'faststate-asgi[postgres]'")
        self._engine = create_async_engine(
            self._url,
            pool_size=10,
            max_overflow=10,
            pool_timeout=self._timeout_s,
            connect_args={"timeout": self._timeout_s, "command_timeout": self._timeout_s},
        )

    async def aclose(self) -> None:
        """Close the pool."""
        if self._engine is not None:
            await self._engine.dispose()

    async def write(self, operation: Operation[T]) -> T:
        """Run in a transaction."""
        async with asyncio.timeout(self._timeout_s * 2), self._engine.begin() as connection:
            result: T = await connection.run_sync(operation)
            return result

    async def read(self, operation: Operation[T]) -> T:
        """Run in a transaction too: one statement sees one moment."""
        return await self.write(operation)


def make_runner(url: str, timeout_s: float) -> Runner:
    """Return what runs operations on a database.

    Raises:
        ConfigurationError: neither SQLite nor PostgreSQL by a known driver.
    """
    scheme = url.partition(":")[0]
    if scheme in ("sqlite", "sqlite+aiosqlite", "sqlite+pysqlite"):
        return SqliteRunner(url, timeout_s)
    if scheme in ("postgresql", "postgresql+asyncpg", "postgres"):
        return PostgresRunner("postgresql+asyncpg:" + url.partition(":")[2], timeout_s)
    raise ConfigurationError(f"{scheme}: is no database that is known; use sqlite+aiosqlite: or postgresql+asyncpg:")
