"""The transport by Redis pub/sub: one subscriber connection per process, however many streams.

The store's commit script announces changes; this listens. A subscription that Redis confirms without being asked means
that the connection was lost: everything that is watched has to be compared.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# redis-py types its commands in part only.
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ..errors import StoreUnavailableError
from ..keys import StateKey
from ..messages import Message, encode, heard
from ..steps import ended
from ..stores.redis import RedisStore, channel_name, make_client
from .base import Listener
from .supervised import for_ever

CONTROL = "fs:control"
CONFIRM_S = 5.0


class RedisTransport:
    """Implements ``Transport`` on Redis.

    Args:
        url: of the Redis that the store uses.
        store: announces changes, and whose messages are not heard.
    """

    name = "redis"

    def __init__(self, url: str, store: RedisStore) -> None:
        self._url, self._store = url, store
        self._client: Redis | None = None
        self._pubsub: Any = None
        self._task: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        self._watched: dict[str, None] = {}
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._has_connected = False

    async def open(self, listener: Listener) -> None:
        """Subscribe to the control channel; what is watched later is added."""
        self._listener = listener
        self._client = make_client(self._url, None)
        confirmed = self._confirmation(CONTROL)
        self._task = asyncio.get_running_loop().create_task(for_ever("the Redis subscriber", self._listen))
        with suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_S):
                await confirmed

    async def aclose(self) -> None:
        """Stop listening; idempotent."""
        self._listener = None
        task, self._task = self._task, None
        if task is not None:
            await ended([task])
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
            await client.connection_pool.disconnect()

    def _confirmation(self, channel: str) -> asyncio.Future[None]:
        future = self._confirmations.get(channel)
        if future is None or future.done():
            future = self._confirmations[channel] = asyncio.get_running_loop().create_future()
        return future

    async def _listen(self) -> None:
        """Connect, subscribe to everything that is watched, and deliver until the connection is gone."""
        assert self._client is not None, "open() comes first"
        pubsub: Any = self._client.pubsub()
        try:
            await pubsub.subscribe(CONTROL, *self._watched)
            self._pubsub = pubsub
            if self._has_connected and self._listener is not None:
                self._listener(None)
            self._has_connected = True
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=False, timeout=30)
                if message is not None:
                    self._take(message)
        finally:
            self._pubsub = None
            with suppress(RedisError, OSError):
                await pubsub.aclose()

    def _take(self, message: dict[str, Any]) -> None:
        kind, channel = message["type"], message["channel"].decode()
        if kind == "subscribe":
            waiting = self._confirmations.pop(channel, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        elif kind == "message":
            self._deliver(message["data"])

    def _deliver(self, data: bytes) -> None:
        message = heard(data, self._store.origin)
        if message is not None and self._listener is not None:
            self._listener(message)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Tell the other processes; changes go to their own channel, the rest to everybody."""
        client = self._client
        if client is None:
            raise StoreUnavailableError("The Redis transport is closed")
        try:
            async with client.pipeline(transaction=False) as pipeline:
                for message in messages:
                    key = getattr(message, "key", None)
                    channel = CONTROL if key is None else channel_name(key)
                    pipeline.publish(channel, self._store.addressed(encode(message)))
                async with asyncio.timeout(CONFIRM_S):
                    await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as exc:
            raise StoreUnavailableError("Redis does not answer") from exc

    async def watch(self, keys: Sequence[StateKey]) -> None:
        """Subscribe, and return when Redis has confirmed it (or when it will on the next connection)."""
        channels = [name for name in map(channel_name, keys) if name not in self._watched]
        self._watched.update(dict.fromkeys(channels))
        if not channels or self._pubsub is None:
            return
        confirmed = [self._confirmation(channel) for channel in channels]
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(CONFIRM_S):
                await self._pubsub.subscribe(*channels)
                await asyncio.gather(*confirmed)

    async def unwatch(self, keys: Sequence[StateKey]) -> None:
        """Unsubscribe."""
        channels = [name for name in map(channel_name, keys) if name in self._watched]
        for channel in channels:
            del self._watched[channel]
        if channels and self._pubsub is not None:
            with suppress(RedisError, OSError):
                await self._pubsub.unsubscribe(*channels)
