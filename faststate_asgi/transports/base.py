"""The ``Transport`` port: news of commits and of ended sessions, to and from other processes only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..keys import StateKey
from ..messages import Message

Listener = Callable[[Message | None], None]
"""Called for each message; None means that messages may have been lost: compare versions."""


class Transport(Protocol):
    """Carries messages to the other processes.

    Promises: each message is delivered at most once to each other process and never to the sender; messages of one
    sender about one key arrive in order; a loss that the transport knows of is told as None. Nothing is delivered
    after ``aclose``.
    """

    name: str

    async def open(self, listener: Listener) -> None:
        """Connect and begin to deliver to ``listener`` on this event loop."""

    async def aclose(self) -> None:
        """Stop delivering; idempotent."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Send; raises ``StoreUnavailableError`` when the way is down."""

    async def watch(self, keys: Sequence[StateKey]) -> None:
        """Begin to receive changes of these keys; changes after this returns are delivered."""

    async def unwatch(self, keys: Sequence[StateKey]) -> None:
        """Receive them no more."""
