"""Which stores there are, which class lives in which, and how news of their commits arrives.

The only module that names concrete stores and transports. Drivers are imported when a setting asks for them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from sqlalchemy.exc import ArgumentError

from .binding import database_parameters
from .errors import ConfigurationError, FastStateError, MissingDependencyError, StoreUnavailableError, shorten
from .hub import Hub
from .key_column import KeyColumn
from .keys import StateKey, StateScope
from .messages import Message, Shown
from .mirror import Mirror
from .parameters import Source
from .plans import StatePlan
from .registry import StateRegistry
from .settings import Settings
from .stores.base import NO_VERSION, DatabaseSession, Snapshot, Store
from .stores.memory import MemoryStore
from .transports.base import Listener, Transport
from .updates import Update

if TYPE_CHECKING:
    from .stores.sql import SqlStore

logger = logging.getLogger("faststate.stores")

RESYNC_CHUNK = 200
_WORKER_FLAGS = ("--workers", "-w")
_SERVERS = ("uvicorn", "gunicorn", "hypercorn", "granian")


_PROBE = StateKey(StateScope.GLOBAL, "faststate")
_KINDS = frozenset({"memory", "database", "redis"})
_SCHEMES = {
    "memory": "memory",
    "sqlite": "database",
    "postgresql": "database",
    "postgres": "database",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
}


def _kind_of(url: str) -> str:
    """Return which kind of store a URL names.

    Raises:
        ConfigurationError: none that is known.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise ConfigurationError(
            f"a store at {shorten(scheme)} is not known; use memory:, sqlite+aiosqlite:///file.db, "
            "postgresql+asyncpg://... or redis://..."
        )
    return _SCHEMES[scheme]


class Backends:
    """All stores of one engine, with the transport of each that other processes share.

    Args:
        settings: say where they are.
        registry: the classes that live in them.

    Raises:
        ConfigurationError: an address that is not known, or a driver that is not installed.
    """

    def __init__(self, settings: Settings, registry: StateRegistry) -> None:
        self._registry = registry
        self.stores: dict[str, Store] = {}
        self.transports: dict[str, Transport] = {}
        self._database: SqlStore | None = None
        self._by_plan: dict[int, tuple[StatePlan, Store]] = {}
        for setting, url, kinds in (
            ("store", settings.store, _KINDS),
            ("database_url", settings.database_url, frozenset({"database"})),
            ("redis_url", settings.redis_url, frozenset({"redis"})),
        ):
            if url is not None:
                kind = _kind_of(url)
                if kind not in kinds or kind in self.stores:
                    raise ConfigurationError(
                        f"{setting}= names a place for {kind} states, but it is for {' or '.join(sorted(kinds))} and there "
                        "can be one of a kind"
                    )
                self._add_readable(url, settings)
        self.records = self._first("redis", "database", "memory")

    def _add_readable(self, url: str, settings: Settings) -> None:
        """Add a URL's store; one that cannot be read is refused without repeating it, as it may hold a password."""
        try:
            self._add(url, settings)
        except ConfigurationError:
            raise
        except (ArgumentError, ValueError) as exc:
            scheme = url.partition(":")[0]
            raise ConfigurationError(f"the address of the {shorten(scheme)} store cannot be read") from exc

    def _add(self, url: str, settings: Settings) -> None:
        """Make the store and the transport that a URL names."""
        scheme = url.partition(":")[0].partition("+")[0]
        if scheme == "memory":
            self.stores["memory"] = MemoryStore(settings.idempotency_max)
        elif scheme in ("sqlite", "postgresql", "postgres"):
            self._add_database(url, settings, scheme)
        else:
            self._add_redis(url, settings)

    def _add_database(self, url: str, settings: Settings, scheme: str) -> None:
        from .stores.sql import SqlStore

        store = SqlStore(url, lease_s=settings.lease, timeout_s=settings.store_timeout, creates_tables=settings.debug)
        self.stores["database"] = self._database = store
        if scheme == "sqlite":
            from .transports.sqlite import SqliteTransport

            self.transports["database"] = SqliteTransport(url, store)
            return
        try:
            from .transports.postgres import PostgresTransport
        except ImportError as exc:
            raise MissingDependencyError("PostgreSQL needs asyncpg: pip install 'faststate-asgi[postgres]'") from exc
        self.transports["database"] = PostgresTransport(url, store)

    def _add_redis(self, url: str, settings: Settings) -> None:
        from .stores.redis import RedisStore
        from .transports.redis import RedisTransport

        store = RedisStore(url, lease_s=settings.lease, timeout_s=settings.store_timeout)
        self.stores["redis"] = store
        self.transports["redis"] = RedisTransport(url, store)

    def wrap(self, store: Callable[[Store], Store], transport: Callable[[Transport], Transport]) -> None:
        """Put something around every store and transport."""
        records = self.records.name
        self.stores = {name: store(inner) for name, inner in self.stores.items()}
        self.transports = {name: transport(inner) for name, inner in self.transports.items()}
        self.records = self.stores[records]
        self._by_plan.clear()
        if self._database is not None:
            self._database = self.stores["database"]  # type: ignore[assignment]  # it passes on what a database has besides

    # -- which store -------------------------------------------------------------------------------------------------

    def _first(self, *names: str) -> Store:
        """Return the first store of these that there is; memory is always to be had."""
        for name in names:
            if name in self.stores:
                return self.stores[name]
        self.stores["memory"] = MemoryStore()
        return self.stores["memory"]

    def store_of(self, plan: StatePlan) -> Store:
        """Return the store of a class.

        Raises:
            ConfigurationError: the class asks for a backend that the settings do not have.
        """
        known = self._by_plan.get(id(plan))
        if known is None:
            known = self._by_plan[id(plan)] = (plan, self._chosen(plan))
        return known[1]

    def _chosen(self, plan: StatePlan) -> Store:
        if plan.key_column is not None:
            return self._with_table(plan, plan.key_column)
        backend = plan.config.persistence_backend
        if backend == "memory":
            return self._first("memory")
        if backend is not None:
            if backend not in self.stores:
                raise ConfigurationError(
                    f'{plan.name} has persistence_backend="{backend}", but the settings have only '
                    f"{', '.join(self.stores)}; set {'redis_url' if backend == 'redis' else 'database_url'}"
                )
            return self.stores[backend]
        if plan.config.auto_persist:
            return self._first("database", "redis", "memory")
        return self._first("redis", "database", "memory")

    def _with_table(self, plan: StatePlan, key_column: KeyColumn) -> Store:
        """Return the database, which keeps the class in its own table from now on."""
        from .stores.tables import TableRows

        if self._database is None:
            raise ConfigurationError(
                f"{plan.name} is a table=True state and needs a database: set store= or database_url= to "
                "sqlite+aiosqlite:///app.db or postgresql+asyncpg://..."
            )
        self._database.adopt(TableRows(plan.name, plan.cls, plan.codec, key_column, plan.shape))
        return self._database

    def database_session(self, *, is_async: bool) -> DatabaseSession:
        """Return a session on the database for one event.

        Raises:
            ConfigurationError: there is no database, or no driver.
        """
        if self._database is None:
            raise ConfigurationError("a database session needs a database: set store= or database_url=")
        return self._database.session(is_async=is_async)

    def _check_sessions(self, plan: StatePlan) -> None:
        """Refuse events that ask for a database session where there can be none."""
        for spec in plan.events.values():
            wanted = database_parameters(spec)
            if wanted and self._database is None:
                raise ConfigurationError(
                    f"{plan.name}.{spec.name} asks for a database session: set store= or database_url= to "
                    "sqlite+aiosqlite:///app.db or postgresql+asyncpg://..."
                )
            if wanted and self._database is not None:
                self._database.sessions.check(is_async=Source.ASYNC_DATABASE in wanted)

    def check(self) -> None:
        """Refuse classes and database sessions without a place, and memory where several workers would each have their own.

        Raises:
            ConfigurationError: says what to do.
        """
        used = {id(self.records): self.records}
        for plan in self._registry.plans:
            store = self.store_of(plan)
            self._check_sessions(plan)
            used[id(store)] = store
        if any(not store.is_shared for store in used.values()) and worker_count() > 1:
            raise ConfigurationError(
                f"memory: is not shared between the {worker_count()} workers that this server starts: run one worker, or "
                "set store= to sqlite+aiosqlite:///app.db, postgresql+asyncpg://... or redis://..."
            )

    # -- life --------------------------------------------------------------------------------------------------------

    async def open(self, listener: Listener) -> None:
        """Connect every store, then listen."""
        for store in self.stores.values():
            await store.open()
            try:
                await store.read([_PROBE])  # a missing table is told now, not at the first event
            except StoreUnavailableError as exc:
                logger.warning("the %s store cannot be reached yet: %s", store.name, exc)
        for transport in self.transports.values():
            await transport.open(listener)

    async def aclose(self) -> None:
        """Stop listening, then disconnect."""
        for transport in self.transports.values():
            await transport.aclose()
        for store in self.stores.values():
            await store.aclose()

    async def leave(self) -> None:
        """Disconnect what was opened on an event loop that is closed; connections of that loop cannot be closed well."""
        parts: list[Store | Transport] = [*self.transports.values(), *self.stores.values()]
        for part in parts:
            try:
                await part.aclose()
            except (RuntimeError, OSError) as exc:
                logger.debug("%s was left open by a closed event loop: %s", type(part).__name__, exc)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Tell the other processes, by the way that sessions take; a way that is down is logged."""
        transport = self.transports.get(self.records.name)
        if transport is not None:
            try:
                await transport.publish(messages)
            except FastStateError as exc:
                logger.warning("other processes could not be told that streams end: %s", exc)

    async def show(self, updates: Sequence[Update]) -> None:
        """Send the one-off elements of updates to the streams of other processes; a way that is down is logged."""
        for update in updates:
            transport = self.transports.get(self.store_of(update.plan).name)
            if transport is not None:
                try:
                    await transport.publish([Shown(update.key, b"".join(update.elements).decode())])
                except FastStateError as exc:
                    logger.warning("other processes could not be told what to show: %s", exc)

    async def watch(self, mirror: Mirror) -> None:
        """Begin to hear of a state's changes."""
        transport = self.transports.get(self.store_of(mirror.plan).name)
        if transport is not None:
            await transport.watch([mirror.key])

    async def unwatch(self, mirrors: Sequence[Mirror]) -> None:
        """Hear of them no more."""
        for mirror in mirrors:
            transport = self.transports.get(self.store_of(mirror.plan).name)
            if transport is not None:
                await transport.unwatch([mirror.key])

    # -- all stores --------------------------------------------------------------------------------------------------

    async def read(self, plan: StatePlan, key: StateKey) -> Snapshot | None:
        """Return what is stored of one key."""
        return (await self.store_of(plan).read([key]))[0]

    async def touch(self, lasting: Sequence[tuple[StatePlan, StateKey, float]]) -> None:
        """Keep watched states from expiring."""
        for store in self.stores.values():
            mine = [(key, ttl_s) for plan, key, ttl_s in lasting if self.store_of(plan) is store]
            if mine:
                await store.touch(mine)

    async def purge(self, limit: int) -> int:
        """Delete what has expired, a bounded number in each store."""
        return sum([await store.purge(limit) for store in self.stores.values()])

    def spare(self, is_watched: Callable[[StateKey], bool]) -> None:
        """Tell a full memory store which states must stay."""
        for store in self.stores.values():
            if isinstance(store, MemoryStore):
                store.is_watched = is_watched

    @property
    def evicted(self) -> int:
        """How many states a full memory store has forgotten."""
        return sum(store.evicted for store in self.stores.values() if isinstance(store, MemoryStore))

    async def count(self) -> int:
        """Return the number of stored states."""
        return sum([await store.count() for store in self.stores.values()])

    async def delete_session(self, session_id: str, keep: Collection[StateKey]) -> list[StateKey]:
        """Delete a session's states in every store."""
        return [key for store in self.stores.values() for key in await store.delete_session(session_id, keep=keep)]

    async def health(self, timeout_s: float) -> dict[str, str]:
        """Return ``"ok"`` or ``"down"`` for each store."""

        async def one(store: Store) -> str:
            try:
                async with asyncio.timeout(timeout_s):
                    await store.ping()
            except (FastStateError, TimeoutError, OSError):
                return "down"
            return "ok"

        states = await asyncio.gather(*(one(store) for store in self.stores.values()))
        return dict(zip(self.stores, states, strict=True))

    async def resync(self, hub: Hub) -> None:
        """Compare every watched state of a shared store with what is stored; a lost message is repaired here."""
        for store in self.stores.values():
            mine = [m for m in hub.watched if m.is_loaded and store.is_shared and self.store_of(m.plan) is store]
            for start in range(0, len(mine), RESYNC_CHUNK):
                chunk = mine[start : start + RESYNC_CHUNK]
                versions = [mirror.version for mirror in chunk]
                found = await store.read([mirror.key for mirror in chunk])
                for mirror, version, snapshot in zip(chunk, versions, found, strict=True):
                    stored = NO_VERSION if snapshot is None else snapshot.version
                    if stored != version:
                        hub.reload(mirror)


def worker_count() -> int:
    """Return how many workers the server was asked to start, as far as its command line and environment tell."""
    program, arguments = (sys.argv or [""])[0], sys.argv[1:]
    # ``python -m uvicorn`` shows as .../uvicorn/__main__.py.
    names = (os.path.basename(program), os.path.basename(os.path.dirname(program)))
    if not any(server in arguments or any(server in name for name in names) for server in _SERVERS):
        return _flag(arguments, _WORKER_FLAGS[:1]) or 1
    if "--reload" in arguments:
        return 1
    return _flag(arguments, _WORKER_FLAGS) or _number(os.environ.get("WEB_CONCURRENCY", ""))


def _flag(arguments: Sequence[str], flags: Sequence[str]) -> int | None:
    """Return the number that one of the flags was given, as ``--flag 4``, ``--flag=4`` or ``-w4``."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in flags:
            return _number(value or next(iter(arguments[index + 1 :]), ""))
        short = next((flag for flag in flags if not flag.startswith("--") and argument.startswith(flag)), None)
        if short is not None and argument[len(short) :].isdigit():
            return _number(argument[len(short) :])
    return None


def _number(text: str) -> int:
    return int(text) if text.isdigit() and len(text) < 6 else 1
