"""What runs the operations of the store in a database: threads for SQLite, a pool of asyncpg for PostgreSQL."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.pool import StaticPool

from ..errors import ConfigurationError, MissingDependencyError
from .direct import DirectConnection
from .statements import POSTGRES, SQLITE, Statements

T = TypeVar("T")
Operation = Callable[[Connection], T]
Work: TypeAlias = "tuple[Operation[Any], asyncio.Future[Any], bool]"
Outcome: TypeAlias = "tuple[asyncio.Future[Any], Any, BaseException | None]"


class Runner(Protocol):
    """Runs operations, each in a transaction of its own."""

    statements: Statements
    does_log: bool
    """Whether changes are announced by the change log (SQLite) or by NOTIFY."""

    async def open(self) -> None:
        """Connect."""

    async def aclose(self) -> None:
        """Disconnect."""

    def write(self, operation: Operation[T]) -> Awaitable[T]:
        """Run an operation that may write."""
        ...

    def define(self, operation: Operation[T]) -> Awaitable[T]:
        """Run an operation that makes tables, which may take longer."""
        ...

    def read(self, operation: Operation[T]) -> Awaitable[T]:
        """Run an operation that only reads."""
        ...

    def ask(self, operation: Operation[T]) -> Awaitable[T]:
        """Run an operation of one reading statement, in one round trip."""
        ...


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
        self._is_in_memory = is_in_memory(self.url)
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

    def define(self, operation: Operation[T]) -> Awaitable[T]:
        """Do what ``write`` does: nothing here is cut off by the clock."""
        return self.write(operation)

    def read(self, operation: Operation[T]) -> Awaitable[T]:
        """Run beside the writer."""
        assert self._reader is not None, "open() comes first"
        return self._reader.submit(operation)

    def ask(self, operation: Operation[T]) -> Awaitable[T]:
        """Run beside the writer, without a transaction."""
        assert self._reader is not None, "open() comes first"
        return self._reader.submit(operation, is_single=True)


def sqlite_engine(url: str, timeout_s: float) -> Engine:
    """Return a synchronous engine on a SQLite file in WAL mode, whose transactions are begun by hand."""
    options: dict[str, Any] = {"poolclass": StaticPool} if is_in_memory(make_url(url)) else {}
    connect_args = {"check_same_thread": False, "timeout": timeout_s}
    engine = create_engine(url, connect_args=connect_args, hide_parameters=True, **options)
    prepare_sqlite(engine, timeout_s)
    return engine


def is_in_memory(url: URL) -> bool:
    """Whether a URL of SQLite names no file."""
    return url.database in (None, "", ":memory:")


def prepare_sqlite(engine: Engine, timeout_s: float) -> None:
    """Give every connection of an engine the same settings, and leave the beginning of transactions to us."""

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA busy_timeout={int(timeout_s * 1000)}")


class _SqliteThread:
    """One thread with one connection; what waits when a transaction begins becomes part of it."""

    def __init__(self, engine: Engine, *, is_writer: bool) -> None:
        self._engine, self._beginning = engine, "BEGIN IMMEDIATE" if is_writer else "BEGIN"
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        name = "faststate-sqlite-writer" if is_writer else "faststate-sqlite-reader"
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T], *, is_single: bool = False) -> Awaitable[T]:
        """Queue an operation, or a single statement that reads; what it returns comes after the commit."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((operation, future, is_single))
        return future

    def close(self) -> None:
        """End after what is queued."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        connection: DirectConnection | None = None
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

    def _run(self, connection: DirectConnection | None, work: list[Work]) -> DirectConnection | None:
        """Run a batch in one transaction, unless all of it are single statements that read."""
        operations = [operation for operation, _, _ in work]
        try:
            connection = connection or DirectConnection(self._engine.connect(), self._beginning)
            is_apart = all(is_single for _, _, is_single in work)
            results = connection.apart(operations) if is_apart else connection.together(operations)
        except Exception as exc:
            results = [(None, exc) for _ in work]
        if connection is not None:
            with suppress(Exception):
                connection.end()
        outcomes = [(future, *result) for (_, future, _), result in zip(work, results, strict=True)]
        by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
        for outcome in outcomes:
            by_loop.setdefault(outcome[0].get_loop(), []).append(outcome)
        for loop, mine in by_loop.items():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, mine)
        return connection


def _settle(outcomes: list[Outcome]) -> None:
    for future, result, error in outcomes:
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
        self._reader: Any = None
        self._asker: Any = None
        self._running: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Make the pool; connections are made when they are needed."""
        from sqlalchemy.ext.asyncio import create_async_engine

        if find_spec("asyncpg") is None:
            raise MissingDependencyError("PostgreSQL needs asyncpg: pip install 'faststate-asgi[postgres]'")
        self._running = set()  # what ran on a loop that is gone does not end any more
        self._engine = create_async_engine(
            self._url,
            pool_size=10,
            max_overflow=10,
            pool_timeout=self._timeout_s,
            hide_parameters=True,  # errors are logged
            connect_args={
                "timeout": self._timeout_s,
                "command_timeout": self._timeout_s,
                # A process that is frozen inside a transaction would keep its locks, and others from the key, for ever.
                "server_settings": {"idle_in_transaction_session_timeout": str(int(self._timeout_s * 500))},
            },
        )
        self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
        # Without BEGIN and COMMIT, which are round trips too.
        self._asker = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def aclose(self) -> None:
        """Close the pool."""
        if self._running:
            await asyncio.wait(self._running, timeout=self._timeout_s)
        if self._engine is not None:
            await self._engine.dispose()

    async def write(self, operation: Operation[T]) -> T:
        """Run in a transaction."""
        return await self._in_time(self._engine, operation)

    async def define(self, operation: Operation[T]) -> T:
        """Run in a transaction that may have many statements, each of which may take its time."""
        return await self._in_transaction(self._engine, operation)

    async def read(self, operation: Operation[T]) -> T:
        """Run in a transaction that sees one moment, however many statements it has."""
        return await self._in_time(self._reader, operation)

    async def ask(self, operation: Operation[T]) -> T:
        """Run one statement by itself."""
        return await self._in_time(self._asker, operation)

    async def _in_time(self, engine: Any, operation: Operation[T]) -> T:
        """Wait no longer than is promised: the connection of a server that does not answer takes seconds to close."""
        running = asyncio.ensure_future(self._in_transaction(engine, operation))
        self._running.add(running)
        running.add_done_callback(self._has_ended)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(running)
        except BaseException:
            running.cancel()
            raise

    def _has_ended(self, running: asyncio.Future[Any]) -> None:
        self._running.discard(running)
        if not running.cancelled():
            running.exception()  # whoever waited for it may be gone

    async def _in_transaction(self, engine: Any, operation: Operation[T]) -> T:
        async with asyncio.timeout(self._timeout_s * 2), engine.begin() as connection:
            result: T = await connection.run_sync(operation)
            return result


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
