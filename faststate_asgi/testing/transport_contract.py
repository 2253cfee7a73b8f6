"""What every ``Transport`` promises, as tests: subclass ``TransportContract`` and give it a fixture ``transports``.

``transports`` yields two transports that are not open yet and belong to two processes. Where the store itself announces
commits, ``announce`` is overridden to commit one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import pytest

from ..keys import StateKey, StateScope
from ..messages import Ended, Message, Published, Shown
from ..transports.base import Transport

Transports: TypeAlias = tuple[Transport, Transport]
DEADLINE_S = 5.0


class Inbox:
    """Collects what a transport delivers."""

    def __init__(self) -> None:
        self.messages: list[Message | None] = []
        self._news = asyncio.Event()

    def __call__(self, message: Message | None) -> None:
        """Take a message."""
        self.messages.append(message)
        self._news.set()

    def published(self, key: StateKey) -> list[Published]:
        """Return the changes of one key."""
        return [item for item in self.messages if isinstance(item, Published) and item.key == key]

    async def until(self, is_reached: Callable[[], object]) -> None:
        """Wait for a condition on the messages."""
        async with asyncio.timeout(DEADLINE_S):
            while not is_reached():
                self._news.clear()
                await self._news.wait()


def new_key() -> StateKey:
    """Return a key that nothing else uses."""
    return StateKey(StateScope.RECORD, f"State{secrets.token_hex(8)}", record_id="a:b*?[x]é")


class TransportContract:
    """Tests of a transport; every one of them runs on every transport, unchanged."""

    pytestmark = pytest.mark.anyio

    async def announce(self, transport: Transport, message: Published) -> None:
        """Make a change known, the way the transport's store does it."""
        await transport.publish([message])

    async def test_a_change_reaches_the_other_process_and_not_its_sender(self, transports: Transports) -> None:
        """Local fan-out is the hub's, so a transport never tells a process what it knows."""
        first, second, key = Inbox(), Inbox(), new_key()
        await transports[0].open(first)
        await transports[1].open(second)
        await transports[0].watch([key])
        await transports[1].watch([key])
        await self.announce(transports[0], Published(key, "0", "1-aaaaaaaa"))
        await second.until(lambda: bool(second.published(key)))
        await asyncio.sleep(0.05)
        assert [item.version for item in second.published(key)] == ["1-aaaaaaaa"]
        assert first.published(key) == []

    async def test_only_watched_keys_are_delivered(self, transports: Transports) -> None:
        """A process hears of what its streams watch."""
        inbox, watched, other = Inbox(), new_key(), new_key()
        await transports[0].open(Inbox())
        await transports[1].open(inbox)
        await transports[1].watch([watched, other])
        await transports[1].unwatch([other])
        await self.announce(transports[0], Published(other, "0", "1-aaaaaaaa"))
        await self.announce(transports[0], Published(watched, "0", "1-bbbbbbbb"))
        await inbox.until(lambda: bool(inbox.published(watched)))
        assert inbox.published(other) == []

    async def test_changes_of_one_key_arrive_in_order(self, transports: Transports) -> None:
        """A version follows the one before."""
        inbox, key = Inbox(), new_key()
        await transports[0].open(Inbox())
        await transports[1].open(inbox)
        await transports[1].watch([key])
        versions = [f"{number}-{number:08x}" for number in range(1, 31)]
        before = "0"
        for version in versions:
            await self.announce(transports[0], Published(key, before, version))
            before = version
        await inbox.until(lambda: len(inbox.published(key)) == len(versions))
        assert [item.version for item in inbox.published(key)] == versions

    async def test_a_change_after_watching_began_is_delivered(self, transports: Transports) -> None:
        """Subscribe before snapshot: ``watch`` returns when it is in force."""
        await transports[0].open(Inbox())
        inbox = Inbox()
        await transports[1].open(inbox)
        for _ in range(10):
            key = new_key()
            await transports[1].watch([key])
            await self.announce(transports[0], Published(key, "0", "1-aaaaaaaa"))
            await inbox.until(partial(inbox.published, key))

    async def test_elements_of_any_length_reach_the_other_process_whole(self, transports: Transports) -> None:
        """What a way cannot carry at once it carries in pieces."""
        inbox, key = Inbox(), new_key()
        await transports[0].open(Inbox())
        await transports[1].open(inbox)
        await transports[1].watch([key])
        sent = [Shown(key, text) for text in ("a", "é" * 50_000, "b" * 20_000, "+0:", "=1:x")]
        for message in sent:
            await transports[0].publish([message])
        await transports[0].publish([*sent, Shown(new_key(), "not watched")])
        await inbox.until(lambda: len(inbox.messages) >= 2 * len(sent))
        assert inbox.messages == [*sent, *sent]

    async def test_ended_sessions_reach_everybody(self, transports: Transports) -> None:
        """A logout is not about a key, so nobody has to watch."""
        inbox = Inbox()
        await transports[0].open(Inbox())
        await transports[1].open(inbox)
        which = Ended(session=secrets.token_hex(8))
        await transports[0].publish([which])
        await inbox.until(lambda: which in inbox.messages)

    async def test_nothing_is_delivered_after_close(self, transports: Transports) -> None:
        """Closing is idempotent and final."""
        inbox, key = Inbox(), new_key()
        await transports[0].open(Inbox())
        await transports[1].open(inbox)
        await transports[1].watch([key])
        await transports[1].aclose()
        await transports[1].aclose()
        await self.announce(transports[0], Published(key, "0", "1-aaaaaaaa"))
        await asyncio.sleep(0.15)
        assert inbox.published(key) == []
