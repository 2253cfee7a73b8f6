"""``Housekeeping``: what an open engine does at intervals. Heartbeats and ages of streams, expiry, leases, lost news."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from .backends import Backends
from .errors import FastStateError, StoreUnavailableError
from .hub import Hub
from .runtime import Runtime
from .settings import Settings
from .steps import ended
from .watchdog import Watchdog

logger = logging.getLogger("faststate")
stores_logger = logging.getLogger("faststate.stores")
TICK_S = 0.25
SHORT_TTL_S = 4.0
PURGE_LIMIT = 1000


class Housekeeping:
    """The tasks of an engine on one event loop and the watchdog of that loop, from ``start`` to ``aclose``.

    Args:
        settings: the intervals.
        backends: where states expire.
        hub: knows what is watched.
        runtime: holds leases.
    """

    def __init__(self, settings: Settings, backends: Backends, hub: Hub, runtime: Runtime) -> None:
        self._settings, self._backends, self._hub, self._runtime = settings, backends, hub, runtime
        self._watchdog = Watchdog(asyncio.get_running_loop(), runtime.event_of)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._watchdog.start()
        work = [self._tick_for_ever()]
        if self._backends.transports:
            work.append(every(self._settings.lease / 3, "renewing leases", self._runtime.turns.renew))
            work.append(every(self._settings.resync_interval, "comparing versions", self._resync))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(coroutine) for coroutine in work]

    def leave(self) -> None:
        """Let go of tasks whose event loop is gone."""
        self._watchdog.stop()
        self._tasks = []

    async def aclose(self) -> None:
        """Stop all of it."""
        self._watchdog.stop()
        await ended(self._tasks)

    async def _resync(self) -> None:
        await self._backends.resync(self._hub)

    async def _tick_for_ever(self) -> None:
        """Heartbeats, ages and expiry; supervised: an error is logged and the loop goes on."""
        settings = self._settings
        tick_s = min(TICK_S, settings.heartbeat / 4, settings.reauthenticate / 4, settings.max_stream_age / 4)
        elapsed_s = 0.0
        while True:
            await asyncio.sleep(tick_s)
            elapsed_s += tick_s
            try:
                await self._hub.tick()
                await self._keep_watched(all_of_them=elapsed_s >= 1)
                if elapsed_s >= 1:
                    elapsed_s = 0.0
                    await self._backends.purge(PURGE_LIMIT)
                    self._hub.forget_answered()
            except StoreUnavailableError as exc:
                logger.warning("expired states stay for now: %s", exc)
            except Exception:
                logger.exception("a background tick failed")

    async def _keep_watched(self, *, all_of_them: bool) -> None:
        """Keep watched states from expiring; those with a very short ``ttl`` are touched more often."""
        watched = [(m.plan, m.key, m.plan.config.ttl) for m in self._hub.watched if m.streams]
        lasting = [(p, key, ttl) for p, key, ttl in watched if ttl is not None and (all_of_them or ttl < SHORT_TTL_S)]
        if lasting:
            await self._backends.touch(lasting)


async def every(interval_s: float, what: str, run: Callable[[], Any]) -> None:
    """Run something again and again; an error is logged and the loop goes on."""
    while True:
        await asyncio.sleep(interval_s * random.uniform(0.8, 1.0))
        try:
            await run()
        except FastStateError as exc:
            stores_logger.warning("%s failed: %s", what, exc)
        except Exception:
            stores_logger.exception("%s failed", what)
