"""What a Redis may lose as it is configured, told once when its store is opened."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# redis-py types its commands in part only.
from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger("faststate.stores")


async def advise(client: Redis, timeout_s: float) -> None:
    """Log what Redis may lose and what to set; one that cannot be asked, or must not be, is left alone.

    Args:
        client: asked once, by ``CONFIG GET``, which many hosted Redis forbid.
        timeout_s: how long this may take.
    """
    try:
        async with asyncio.timeout(timeout_s):
            config = await client.config_get("maxmemory-policy", "save", "appendonly")
    except (RedisError, OSError, TimeoutError) as exc:
        logger.debug("the configuration of Redis cannot be read (%s)", type(exc).__name__)
        return
    for advice in advice_on(config):
        logger.warning("%s", advice)


def advice_on(config: Mapping[str | None, str | None]) -> list[str]:
    """Return a sentence for each loss that a configuration allows; what it does not tell is taken as fine."""
    found: list[str] = []
    policy = config.get("maxmemory-policy") or ""
    if policy.startswith("allkeys-"):
        found.append(
            f"Redis deletes states, logins and kept answers when its memory is full (maxmemory-policy {policy}): set "
            "maxmemory-policy noeviction"
        )
    if config.get("save") == "" and config.get("appendonly") == "no":
        found.append(
            "Redis keeps nothing on disk (no save, appendonly no), so all states and logins are lost when it restarts: "
            "set appendonly yes, and appendfsync always if not even the last second may be lost"
        )
    return found
