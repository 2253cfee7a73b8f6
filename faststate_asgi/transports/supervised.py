"""A listener's loop that survives its server: counts, logs, backs off with jitter, and goes on."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

logger = logging.getLogger("faststate.transports")

BACKOFF_S = (0.05, 0.5)


async def for_ever(name: str, listen: Callable[[], Awaitable[None]]) -> None:
    """Run ``listen`` again and again; each time it fails a little later, up to half a second.

    Args:
        name: for the log.
        listen: connects and listens; returns or raises when the connection is gone.
    """
    pause_s = BACKOFF_S[0]
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await listen()
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            logger.warning("%s lost its connection (%s); connecting again", name, type(exc).__name__)
        pause_s = BACKOFF_S[0] if loop.time() - began > BACKOFF_S[1] else min(pause_s * 2, BACKOFF_S[1])
        await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
