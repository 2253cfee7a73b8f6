"""``Session`` and ``AsyncSession`` parameters of events: the user's own rows, committed with the state or not at all.

A session has a connection of its own from its first statement to the end of the turn, and the commit of the state runs
on that connection, in the session's transaction. Nothing is open before the handler uses it. On SQLite reads are not in
a transaction until something is written, which begins one that excludes other writers at once: a transaction that
reads first and writes then could be refused, and two of them could wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession as PlainAsyncSession
from sqlalchemy.orm import Session as PlainSession
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from ..errors import ConfigurationError, ConflictError, FastStateError, MissingDependencyError, StoreUnavailableError
from .base import Lease, Remember, Store, Write
from .bridge import bridged
from .runners import Operation, is_in_memory, prepare_sqlite

logger = logging.getLogger("faststate.stores")

P = ParamSpec("P")
T = TypeVar("T")
POOL = 5
_READS = re.compile(
    r"\s*(SELECT|VALUES|EXPLAIN|PRAGMA)\b|\s*WITH\b(?!.*\b(INSERT|UPDATE|DELETE|REPLACE)\b)", re.I | re.S
)
_RETRY = {"Retry-After": "1"}
_VICTIMS = frozenset({"40P01", "40001", "55P03"})
"""SQLSTATEs of PostgreSQL: deadlock, serialization failure, lock not to be had."""


class JoinedSession(Session):
    """A session whose transaction is the event's: ``commit()`` only flushes, ``rollback()`` undoes what it did so far.

    Args:
        checked_out: gives the connection, which has begun a transaction.
        options: of SQLAlchemy's session.
    """

    def __init__(self, *args: Any, checked_out: Callable[[], Connection], **options: Any) -> None:
        super().__init__(*args, expire_on_commit=False, join_transaction_mode="rollback_only", **options)
        self._checked_out = checked_out

    # SQLModel's own warns who uses SQLAlchemy's way.
    execute = PlainSession.execute

    def get_bind(self, *args: Any, **options: Any) -> Connection:
        """Return the event's connection, opened when it is first asked for."""
        return self._checked_out()


class JoinedAsyncSession(AsyncSession):
    """The same for ``async def`` handlers."""

    sync_session_class = JoinedSession
    execute = PlainAsyncSession.execute


class JoinableStore(Store, Protocol):
    """A store that can commit in the transaction of a session."""

    async def commit_in(
        self,
        session: EventSession,
        lease: Lease,
        writes: Sequence[Write],
        *,
        commit_id: str,
        remember: Sequence[Remember] = (),
    ) -> None:
        """Commit states and session together."""


class SessionSource:
    """Where the sessions of one database come from, with a pool of connections of their own.

    Args:
        url: of the database.
        timeout_s: how long a connection, or SQLite's lock, is waited for.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self.timeout_s = make_url(url), timeout_s
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        self._engine: Engine | None = None
        self._async_engine: Any = None

    def open(self, store: JoinableStore, *, is_async: bool) -> EventSession:
        """Return a session for one event; it connects when it is first used.

        Raises:
            ConfigurationError: the database is in memory, or a driver is missing.
        """
        self.check(is_async=is_async)
        if self._is_sqlite and not is_async:
            return ThreadedSession(store, self._sync(), self.timeout_s)
        return LoopSession(store, self._asynchronous(), self.timeout_s, is_async=is_async)

    def check(self, *, is_async: bool) -> None:
        """Raise ``ConfigurationError`` if there can be no such session."""
        if self._is_sqlite and is_in_memory(self._url):
            raise ConfigurationError("a database session needs a file or a server: SQLite in memory has one connection")
        if self._is_sqlite and is_async and find_spec("aiosqlite") is None:
            raise MissingDependencyError(
                "an AsyncSession on SQLite needs aiosqlite: pip install 'faststate-asgi[sqlite]'"
            )

    def _sync(self) -> Engine:
        if self._engine is None:
            self._engine = create_engine(
                self._url.set(drivername="sqlite"),
                pool_size=POOL,
                max_overflow=POOL,
                pool_timeout=self.timeout_s,
                hide_parameters=True,  # errors are logged
                connect_args={"check_same_thread": False, "timeout": self.timeout_s},
            )
            self._prepare(self._engine)
        return self._engine

    def _asynchronous(self) -> Any:
        from sqlalchemy.ext.asyncio import create_async_engine

        if self._async_engine is None:
            self._async_engine = create_async_engine(
                self._url.set(drivername="sqlite+aiosqlite" if self._is_sqlite else "postgresql+asyncpg"),
                pool_size=POOL,
                max_overflow=POOL,
                pool_timeout=self.timeout_s,
                hide_parameters=True,  # errors are logged
                connect_args={"timeout": self.timeout_s},
            )
            if self._is_sqlite:
                self._prepare(self._async_engine.sync_engine)
        return self._async_engine

    def _prepare(self, engine: Engine) -> None:
        """Begin transactions of SQLite by hand, when something is written."""
        prepare_sqlite(engine, self.timeout_s)

        @event.listens_for(engine, "before_cursor_execute")
        def begin(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
            raw: Any = connection.connection.driver_connection
            if not raw.in_transaction and not _READS.match(statement):
                cursor.execute("BEGIN IMMEDIATE")

    async def aclose(self) -> None:
        """Close all connections."""
        engine, self._engine = self._engine, None
        async_engine, self._async_engine = self._async_engine, None
        if engine is not None:
            engine.dispose()
        if async_engine is not None:
            await async_engine.dispose()


class EventSession:
    """Implements ``DatabaseSession``: the session of one event, over all its turns; whoever made the turn ends it."""

    for_handler: Any

    def __init__(self, store: JoinableStore, timeout_s: float) -> None:
        self.store = store
        self._timeout_s = timeout_s
        self._session: JoinedSession
        self._connection: Connection | None = None
        self._is_abandoned = False

    # -- what the two kinds do differently ---------------------------------------------------------------------------

    def _connect(self) -> Connection:
        raise NotImplementedError

    async def _run(self, work: Callable[[], T]) -> T:
        """Run what uses the connection, from the event loop."""
        raise NotImplementedError

    async def _give_back(self, connection: Connection, *, is_broken: bool) -> None:
        raise NotImplementedError

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a ``def`` handler in a worker thread, and send its rows to the database afterwards."""
        result = func(*args, **kwargs)
        self._session.flush()
        return result

    # -- the handler's side ------------------------------------------------------------------------------------------

    def _checked_out(self) -> Connection:
        self._refuse_abandoned()
        connection = self._connection
        if connection is None:
            try:
                connection = self._connection = self._connect()
            except (SQLAlchemyError, OSError, TimeoutError) as exc:
                raise StoreUnavailableError("The database does not answer; please try again", headers=_RETRY) from exc
            if self._is_abandoned:  # meanwhile; nobody else will give it back
                self._connection = None
                connection.close()
            self._refuse_abandoned()
        if not connection.in_transaction():
            connection.begin()
        return connection

    def _refuse_abandoned(self) -> None:
        if self._is_abandoned:
            raise StoreUnavailableError("The event's time is over, and so is its database session", headers=_RETRY)

    @property
    def is_used(self) -> bool:
        """Whether the handler has a connection, or rows that wait for one."""
        session = self._session
        return self._connection is not None or bool(session.new or session.dirty or session.deleted)

    def explained(self, exc: BaseException) -> BaseException:
        """Return the package's own error for what the database refused or could not do; any other as it is."""
        if isinstance(exc, IntegrityError):
            return ConflictError("The change breaks a rule of the database; another row may have this value")
        if (isinstance(exc, DBAPIError) and _may_work_later(exc)) or isinstance(exc, PoolTimeoutError):
            return StoreUnavailableError("The database does not answer; please try again", headers=_RETRY)
        return exc

    # -- the turn's side ---------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Send rows that wait to the database, where they may still be refused."""
        if self.is_used:
            await self._run(self._session.flush)

    async def commit_with(
        self, lease: Lease, writes: Sequence[Write], *, commit_id: str, remember: Sequence[Remember] = ()
    ) -> None:
        """Commit states and session in one transaction."""
        await self.store.commit_in(self, lease, writes, commit_id=commit_id, remember=remember)

    async def commit_alone(self) -> None:
        """Commit the session where its states live elsewhere."""
        try:
            await self.commit()
        except (SQLAlchemyError, OSError, TimeoutError) as exc:
            logger.error("a state was committed, but not the rows of its event: %s", type(exc).__name__)
            known = self.explained(exc)
            raise (
                StoreUnavailableError("The database does not answer", headers=_RETRY) if known is exc else known
            ) from exc

    async def commit(self, operation: Operation[None] | None = None) -> None:
        """Run an operation in the session's transaction, commit both, and give the connection back.

        Raises:
            SQLAlchemyError: nothing was committed, unless the connection broke in the last moment.
        """
        try:
            async with asyncio.timeout(self._timeout_s * 2):
                await self._run(lambda: self._commit(operation))
        except (FastStateError, SQLAlchemyError):
            raise
        except BaseException:
            self.abandon()  # it may still be committing
            raise
        finally:
            await self.end()

    def _commit(self, operation: Operation[None] | None) -> None:
        self._session.commit()  # flushes; the transaction is ours
        connection = self._checked_out()
        if operation is not None:
            operation(connection)
        connection.commit()

    def abandon(self) -> None:
        """Say that the handler's time is over although it may still run: its connection is never used again."""
        self._is_abandoned = True

    async def end(self) -> None:
        """Undo what was not committed, and give the connection back; a later use gets another one."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(self._timeout_s * 2):
                if not self._is_abandoned and (self._session.in_transaction() or connection.in_transaction()):
                    await self._run(lambda: self._undo(connection))
                await self._give_back(connection, is_broken=self._is_abandoned)
        except (SQLAlchemyError, OSError, TimeoutError):
            logger.warning("the connection of a database session could not be given back", exc_info=True)

    def _undo(self, connection: Connection) -> None:
        self._session.rollback()
        if connection.in_transaction():
            connection.rollback()


def _may_work_later(exc: DBAPIError) -> bool:
    """Whether the database was locked or lost, or chose the handler as the victim of a deadlock."""
    state = getattr(exc.orig, "sqlstate", None)
    return exc.connection_invalidated or "locked" in str(exc.orig) or state in _VICTIMS


class ThreadedSession(EventSession):
    """A ``Session`` on SQLite's own driver, which waits in worker threads.

    Args:
        store: of the same database.
        engine: of the sessions.
        timeout_s: how long the database may take.
    """

    def __init__(self, store: JoinableStore, engine: Engine, timeout_s: float) -> None:
        super().__init__(store, timeout_s)
        self._engine = engine
        self._session = JoinedSession(checked_out=self._checked_out)
        self.for_handler = self._session

    def _connect(self) -> Connection:
        return self._engine.connect()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, work)

    async def _give_back(self, connection: Connection, *, is_broken: bool) -> None:
        def give() -> None:
            if is_broken and not connection.invalidated:
                raw: Any = connection.connection.driver_connection
                raw.interrupt()
                connection.invalidate()
            connection.close()

        await self._run(give)


class LoopSession(EventSession):
    """A session on a driver of the event loop: an ``AsyncSession``, or a ``Session`` for a thread on PostgreSQL.

    Args:
        store: of the same database.
        engine: of the sessions, asynchronous.
        timeout_s: how long the database may take.
        is_async: what the handler gets.
    """

    def __init__(self, store: JoinableStore, engine: Any, timeout_s: float, *, is_async: bool) -> None:
        super().__init__(store, timeout_s)
        self._engine = engine
        self._opened: Any = None
        self._loop = asyncio.get_running_loop()
        if is_async:
            options: dict[str, Any] = {"checked_out": self._checked_out}
            self.for_handler = JoinedAsyncSession(**options)
            self._session = self.for_handler.sync_session
        else:
            self.for_handler = self._session = JoinedSession(checked_out=self._checked_out)

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a ``def`` handler in a worker thread; whenever its session waits, the event loop does it for it."""
        return bridged(self._loop, lambda: super(LoopSession, self).call(func, *args, **kwargs))

    def _connect(self) -> Connection:
        from sqlalchemy.util import await_only

        async def open_one() -> Any:
            return await self._engine.connect()

        self._opened = await_only(open_one())
        connection: Connection = self._opened.sync_connection
        return connection

    async def _run(self, work: Callable[[], T]) -> T:
        from sqlalchemy.util import greenlet_spawn

        return await greenlet_spawn(work)

    async def _give_back(self, connection: Connection, *, is_broken: bool) -> None:
        opened, self._opened = self._opened, None
        if is_broken:
            await opened.invalidate()
        await opened.close()
