"""The transport of SQLite: a thread that reads the change log when the file has changed.

``PRAGMA data_version`` says in microseconds whether another connection has committed, so a quiet file costs next to
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import make_url

from ..keys import StateKey
from ..messages import Ended, Message, decode, encode
from ..stores.sql import SqlStore
from .base import Listener

logger = logging.getLogger("faststate.transports")

POLL_S = 0.04
RETRY_S = 0.5
BATCH = 1000


class SqliteTransport:
    """Implements ``Transport`` on a SQLite file.

    Args:
        url: of the file that the store uses.
        store: announces changes, and whose messages are not heard.
    """

    name = "sqlite"

    def __init__(self, url: str, store: SqlStore) -> None:
        self._path = make_url(url).database or ""
        self._store = store
        self._listener: Listener | None = None
        self._watched: set[StateKey] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._last = -1

    async def open(self, listener: Listener) -> None:
        """Begin to read; what was logged before is old news."""
        self._listener, self._loop = listener, asyncio.get_running_loop()
        self._stop.clear()
        self._ready.clear()
        self._thread = threading.Thread(target=self._follow, name="faststate-sqlite-changes", daemon=True)
        self._thread.start()
        await self._loop.run_in_executor(None, self._ready.wait, 5.0)

    async def aclose(self) -> None:
        """Stop reading; idempotent."""
        self._listener = None
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            await asyncio.get_running_loop().run_in_executor(None, thread.join, 5.0)

    def _follow(self) -> None:
        """Read changes until told to stop; a file that cannot be read is tried again."""
        while not self._stop.is_set():
            try:
                self._read_for_ever()
            except sqlite3.Error as exc:
                logger.warning("the change log of SQLite cannot be read (%s); trying again", type(exc).__name__)
                self._ready.set()
                self._stop.wait(RETRY_S)

    def _read_for_ever(self) -> None:
        connection = sqlite3.connect(self._path, timeout=2, isolation_level=None, check_same_thread=False)
        try:
            if self._last < 0:
                (self._last,) = connection.execute("SELECT coalesce(max(id), 0) FROM faststate_change").fetchone()
            seen = -1
            self._ready.set()
            while not self._stop.wait(POLL_S):
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                if version != seen:
                    self._read_new(connection)
                    seen = version
        finally:
            connection.close()

    def _read_new(self, connection: sqlite3.Connection) -> None:
        """Deliver what was logged since the last time; a gap means that something was purged unread."""
        while True:
            rows = connection.execute(
                "SELECT id, origin, message FROM faststate_change WHERE id > ? ORDER BY id LIMIT ?", (self._last, BATCH)
            ).fetchall()
            if not rows:
                return
            if rows[0][0] > self._last + 1:
                self._hand_over(None)
            self._last = rows[-1][0]
            for _, origin, text in rows:
                message = decode(text)
                if message is not None and origin != self._store.origin:
                    self._hand_over(message)

    def _hand_over(self, message: Message | None) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver, message)

    def _deliver(self, message: Message | None) -> None:
        if self._listener is None:
            return
        if message is None or isinstance(message, Ended) or message.key in self._watched:
            self._listener(message)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Tell the other processes."""
        await self._store.announce([encode(message) for message in messages])

    async def watch(self, keys: Sequence[StateKey]) -> None:
        """Deliver changes of these keys from now on."""
        self._watched.update(keys)

    async def unwatch(self, keys: Sequence[StateKey]) -> None:
        """Deliver them no more."""
        self._watched.difference_update(keys)
