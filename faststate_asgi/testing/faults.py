"""``Faults``: what breaks in production, on order. For tests of apps and of the package.

Wraps the stores and transports of one engine; what no order names passes through untouched. Real stores and transports
stay underneath, so what happens after the fault is what would happen.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..engine import FastState
from ..errors import ConfigurationError, StoreUnavailableError
from ..keys import StateKey
from ..messages import Message
from ..middleware import FastStateMiddleware
from ..stores.base import Answer, ImmediateStore, Lease, Remember, Snapshot, Store, Write
from ..stores.memory import MemoryStore
from ..transports.base import Listener, Transport

T = TypeVar("T")
METHODS = frozenset(
    (
        *("open", "ping", "read", "acquire", "renew", "commit", "release", "count", "purge", "touch"),
        *("recall", "remember", "get_records", "put_records", "delete_session"),
    )
)
"""The calls of a store that may fail or be slow."""


@dataclass(slots=True)
class _Order:
    """One fault for calls of one method: how many calls it is still for (None for all), and what happens to them."""

    left: int | None
    delay_s: float = 0.0
    fails: bool = False
    is_after: bool = False


class FaultyStore:
    """A store whose calls fail, or take their time, on order.

    Args:
        inner: the store underneath.
        faults: whose orders it follows.
    """

    immediate: ImmediateStore | None = None

    def __init__(self, inner: Store, faults: Faults) -> None:
        self.inner, self._faults = inner, faults
        self.name, self.is_shared = inner.name, inner.is_shared

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def _call(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        self._faults.calls[method] += 1
        order = self._faults.next_order(method)
        if order is None:
            return await call()
        if order.delay_s:
            await asyncio.sleep(order.delay_s)
        if not order.fails:
            return await call()
        if order.is_after:
            await call()
            if not self.is_shared:
                self._faults.lose_news()
        raise StoreUnavailableError("The store does not answer (on order)", headers={"Retry-After": "1"})

    async def open(self) -> None:
        """Connect."""
        await self._call("open", self.inner.open)

    async def aclose(self) -> None:
        """Disconnect; never fails on order."""
        await self.inner.aclose()

    async def ping(self) -> None:
        """Ask whether the store answers."""
        await self._call("ping", self.inner.ping)

    async def read(self, keys: Sequence[StateKey]) -> list[Snapshot | None]:
        """Return what is stored."""
        return await self._call("read", lambda: self.inner.read(keys))

    async def acquire(self, keys: Sequence[StateKey], *, wait_s: float, recall: Sequence[str] = ()) -> Lease:
        """Take the turn."""
        return await self._call("acquire", lambda: self.inner.acquire(keys, wait_s=wait_s, recall=recall))

    async def renew(self, lease: Lease) -> None:
        """Hold the turn longer."""
        await self._call("renew", lambda: self.inner.renew(lease))

    async def commit(
        self,
        lease: Lease,
        writes: Sequence[Write],
        *,
        commit_id: str,
        remember: Sequence[Remember] = (),
        release: bool = True,
    ) -> None:
        """Store everything or nothing."""
        await self._call(
            "commit",
            lambda: self.inner.commit(lease, writes, commit_id=commit_id, remember=remember, release=release),
        )

    async def release(self, lease: Lease) -> None:
        """Give the turn back."""
        await self._call("release", lambda: self.inner.release(lease))

    async def recall(self, names: Sequence[str]) -> Answer | None:
        """Return a remembered answer."""
        return await self._call("recall", lambda: self.inner.recall(names))

    async def recall_all(self, names: Sequence[str]) -> dict[str, Answer]:
        """Return remembered answers by name."""
        return await self._call("recall", lambda: self.inner.recall_all(names))

    async def remember(self, items: Sequence[Remember]) -> None:
        """Keep answers."""
        await self._call("remember", lambda: self.inner.remember(items))

    async def get_records(self, names: Sequence[str]) -> list[bytes | None]:
        """Return records."""
        return await self._call("get_records", lambda: self.inner.get_records(names))

    async def put_records(self, records: Mapping[str, tuple[bytes | None, float]]) -> None:
        """Store records."""
        await self._call("put_records", lambda: self.inner.put_records(records))

    async def touch(self, keys: Sequence[tuple[StateKey, float]]) -> None:
        """Keep states from expiring."""
        await self._call("touch", lambda: self.inner.touch(keys))

    async def delete_session(self, session_id: str, *, keep: Collection[StateKey] = ()) -> list[StateKey]:
        """Delete a session's states."""
        return await self._call("delete_session", lambda: self.inner.delete_session(session_id, keep=keep))

    async def purge(self, limit: int) -> int:
        """Delete what has expired."""
        return await self._call("purge", lambda: self.inner.purge(limit))

    async def count(self) -> int:
        """Return the number of stored states."""
        return await self._call("count", self.inner.count)


class FaultyTransport:
    """A transport that loses, delays and repeats what it receives, on order.

    Args:
        inner: the transport underneath.
        faults: whose orders it follows.
    """

    def __init__(self, inner: Transport, faults: Faults) -> None:
        self.inner, self._faults = inner, faults
        self.name = inner.name
        self.listener: Listener | None = None

    async def open(self, listener: Listener) -> None:
        """Connect."""
        self.listener = listener
        await self.inner.open(self._hear)

    async def aclose(self) -> None:
        """Stop delivering."""
        self.listener = None
        await self.inner.aclose()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Send."""
        await self.inner.publish(messages)

    async def watch(self, keys: Sequence[StateKey]) -> None:
        """Begin to receive."""
        await self.inner.watch(keys)

    async def unwatch(self, keys: Sequence[StateKey]) -> None:
        """Receive no more."""
        await self.inner.unwatch(keys)

    def _hear(self, message: Message | None) -> None:
        for delay_s in self._faults.deliveries(message):
            asyncio.get_running_loop().call_later(delay_s, self.deliver, message)

    def deliver(self, message: Message | None) -> None:
        """Hand a message to the engine, if it still listens."""
        if self.listener is not None:
            self.listener(message)


class Faults:
    """Orders for what breaks in one engine; made before it opens, and good for as long as it lives.

    Args:
        target: the engine, or the middleware around an app.
        seed: of the chance by which messages are lost; the same one breaks the same things.

    Attributes:
        calls: how often each method of the stores was called.
        lost: how many messages were lost on order.

    Raises:
        ConfigurationError: the engine is open already.
    """

    def __init__(self, target: FastState | FastStateMiddleware, seed: int = 0) -> None:
        self.engine = target.faststate if isinstance(target, FastStateMiddleware) else target
        self.calls: Counter[str] = Counter()
        self.lost = 0
        self._random = random.Random(seed)
        self._orders: dict[str, list[_Order]] = {}
        self._loss = self._repeats = self._delay_s = 0.0
        self._stores: list[FaultyStore] = []
        self._transports: list[FaultyTransport] = []
        self._offset_s = 0.0
        self.engine.wrap_backends(self._store, self._transport)

    def _store(self, inner: Store) -> Store:
        if isinstance(inner, MemoryStore):
            inner.clock = lambda: time.monotonic() + self._offset_s
        self._stores.append(FaultyStore(inner, self))
        return self._stores[-1]

    def _transport(self, inner: Transport) -> Transport:
        self._transports.append(FaultyTransport(inner, self))
        return self._transports[-1]

    # -- stores ------------------------------------------------------------------------------------------------------

    def fail(self, method: str, times: int | None = 1, *, after: bool = False) -> None:
        """Let the next ``times`` calls of a store's method fail, all of them with None.

        Args:
            method: one of ``METHODS``, such as ``"commit"``.
            times: how many.
            after: whether the call is carried out first, and only its reply is lost.

        Raises:
            ConfigurationError: there is no such call.
        """
        self._add(method, _Order(times, fails=True, is_after=after))

    def slow(self, method: str, seconds: float, times: int | None = 1) -> None:
        """Let the next ``times`` calls of a store's method begin so much later, all of them with None."""
        self._add(method, _Order(times, delay_s=seconds))

    def down(self) -> None:
        """Let every call of every store fail until ``clear``."""
        for method in METHODS - {"open"}:
            self.fail(method, None)

    def _add(self, method: str, order: _Order) -> None:
        if method not in METHODS:
            raise ConfigurationError(f"a store has no call {method!r}; it has {', '.join(sorted(METHODS))}")
        self._orders.setdefault(method, []).append(order)

    def next_order(self, method: str) -> _Order | None:
        """Return what is to happen to the call that begins now, None for nothing."""
        orders = self._orders.get(method)
        if not orders:
            return None
        order = orders[0]
        if order.left is not None:
            order.left -= 1
            if order.left == 0:
                orders.pop(0)
        return order

    def move_clock(self, seconds: float) -> None:
        """Let the memory store believe that so many seconds have passed.

        Raises:
            ConfigurationError: another store, which asks its own server for the time.
        """
        if not any(isinstance(store.inner, MemoryStore) for store in self._stores):
            raise ConfigurationError("only the clock of the memory store can be moved; others ask their own server")
        self._offset_s += seconds

    # -- messages between processes ----------------------------------------------------------------------------------

    def messages(self, *, lost: float = 0.0, repeated: float = 0.0, delay: float = 0.0) -> None:
        """Break the news of other processes from now on.

        Args:
            lost: the share of messages that never arrive, without any sign of it.
            repeated: the share that arrives twice.
            delay: each comes up to so many seconds late, so that they overtake each other.
        """
        self._loss, self._repeats, self._delay_s = lost, repeated, delay

    def lose_news(self) -> None:
        """Let all that is watched be read again: no message and no comparison tells of a commit in one process' memory."""
        self.engine.hub.receive(None)

    def lose_connection(self) -> None:
        """Tell the engine what a transport tells it after a lost connection: messages may be missing."""
        for transport in self._transports:
            transport.deliver(None)

    def deliveries(self, message: Message | None) -> list[float]:
        """Return after how many seconds a message that has just come is handed on: never, once or twice."""
        if message is not None and self._random.random() < self._loss:
            self.lost += 1
            return []
        count = 2 if self._random.random() < self._repeats else 1
        return [self._random.uniform(0, self._delay_s) for _ in range(count)]

    # -- streams -----------------------------------------------------------------------------------------------------

    def cut_streams(self) -> int:
        """Break the connection of every open stream, without a word to its reader; return how many there were."""
        streams = self.engine.hub.streams
        for stream in streams:
            stream.abort()
        return len(streams)

    def clear(self) -> None:
        """Let everything work again; the clock stays where it is."""
        self._orders.clear()
        self.messages()
