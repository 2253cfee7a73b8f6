"""The transport of a single process: there is nobody to reach.

``LocalTransport`` alone carries nothing. Several of them on one ``LocalBus`` reach each other inside one process, which
is how several engines are tested together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..keys import StateKey
from ..messages import Ended, Message
from .base import Listener


class LocalBus:
    """Connects local transports; lives as long as any of them."""

    def __init__(self) -> None:
        self.members: list[LocalTransport] = []


class LocalTransport:
    """Implements ``Transport`` inside one process."""

    name = "local"

    def __init__(self, bus: LocalBus | None = None) -> None:
        self._bus = bus or LocalBus()
        self._listener: Listener | None = None
        self._watched: set[StateKey] = set()

    async def open(self, listener: Listener) -> None:
        """Join the bus."""
        self._listener = listener
        if self not in self._bus.members:
            self._bus.members.append(self)

    async def aclose(self) -> None:
        """Leave the bus."""
        self._listener = None
        if self in self._bus.members:
            self._bus.members.remove(self)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Deliver to the other members on the next turn of the loop."""
        loop = asyncio.get_running_loop()
        for member in self._bus.members:
            if member is not self:
                for message in messages:
                    loop.call_soon(member.deliver, message)

    def deliver(self, message: Message) -> None:
        """Hand a message to the listener, if it is for this member."""
        if self._listener is not None and (isinstance(message, Ended) or message.key in self._watched):
            self._listener(message)

    async def watch(self, keys: Sequence[StateKey]) -> None:
        """Begin to receive changes of these keys."""
        self._watched.update(keys)

    async def unwatch(self, keys: Sequence[StateKey]) -> None:
        """Receive them no more."""
        self._watched.difference_update(keys)
