"""The transport by PostgreSQL's LISTEN: one connection per process. The store announces with NOTIFY in its commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs]  # it ships none

from ..keys import StateKey
from ..messages import Ended, Message, encode, heard, whole
from ..steps import ended
from ..stores.sql import NOTIFY_CHANNEL, SqlStore
from .base import Listener
from .supervised import for_ever

CONNECT_S = 5.0
CHECK_S = 5.0


_driver: Any = asyncpg


class PostgresTransport:
    """Implements ``Transport`` on PostgreSQL.

    Args:
        url: of the database that the store uses.
        store: announces changes, and whose messages are not heard.
    """

    name = "postgres"

    def __init__(self, url: str, store: SqlStore) -> None:
        self._dsn = "postgresql:" + url.partition(":")[2]
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        self._watched: set[StateKey] = set()
        self._is_listening = asyncio.Event()
        self._has_connected = False
        self._begun: dict[int, str] = {}

    async def open(self, listener: Listener) -> None:
        """Connect and listen."""
        self._listener, self._is_listening = listener, asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(for_ever("the PostgreSQL listener", self._listen))
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                await self._is_listening.wait()

    async def aclose(self) -> None:
        """Stop listening; idempotent."""
        self._listener = None
        task, self._task = self._task, None
        if task is not None:
            await ended([task])

    async def _listen(self) -> None:
        """Listen until the connection is gone; a missed message cannot be known, so everything is compared after."""
        connection: Any = await _driver.connect(self._dsn, timeout=CONNECT_S)
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(partial(_set, lost))
            await connection.add_listener(NOTIFY_CHANNEL, self._take)
            if self._has_connected and self._listener is not None:
                self._listener(None)
            self._has_connected = True
            self._is_listening.set()
            while not lost.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_S):
                        await lost.wait()
                if not lost.is_set():
                    await connection.execute("SELECT 1", timeout=CONNECT_S)
        finally:
            self._is_listening.clear()
            self._begun.clear()
            with suppress(Exception):
                await connection.close(timeout=1)

    def _take(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        text = whole(payload, self._begun, pid)
        message = None if text is None else heard(text, self._store.origin)
        if message is None or self._listener is None:
            return
        if isinstance(message, Ended) or message.key in self._watched:
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


def _set(lost: asyncio.Event, connection: Any) -> None:
    lost.set()
