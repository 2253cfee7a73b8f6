"""``Announcer``: tells streams what was committed, where a store has more processes than this one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from .backends import Backends
from .hub import Hub
from .updates import Update

MAX_TO_SHOW = 1000


class Announcer:
    """Tells the streams of this process at once, and those of others what to show besides; ``aclose`` ends it.

    Args:
        hub: has the streams of this process.
        backends: reach the other processes; what their stores hold they hear from these.
    """

    def __init__(self, hub: Hub, backends: Backends) -> None:
        self._hub, self._backends = hub, backends
        self._to_show: deque[Update] = deque(maxlen=MAX_TO_SHOW)
        self._showing: asyncio.Task[None] | None = None

    def announce(self, updates: Sequence[Update]) -> None:
        """Tell of what was committed."""
        self._hub.publish(updates)
        for update in updates:
            if update.elements:
                self._to_show.append(update)
        if self._to_show and (self._showing is None or self._showing.done()):
            self._showing = asyncio.get_running_loop().create_task(self._show())

    async def _show(self) -> None:
        """Pass on in the order of the commits."""
        while self._to_show:
            updates = list(self._to_show)
            self._to_show.clear()
            await self._backends.show(updates)

    async def aclose(self) -> None:
        """Wait until all is passed on."""
        if self._showing is not None:
            await self._showing
