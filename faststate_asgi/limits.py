"""Rate limits: a token bucket per caller and event, in this process, bounded in number."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from dataclasses import dataclass

from .errors import ConfigurationError, RateLimitedError, shorten

_RATE = re.compile(r"(\d+)\s*/\s*(\d*)\s*(s|sec|second|m|min|minute|h|hour)s?")
_SECONDS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
MAX_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` calls in ``period_s`` seconds."""

    burst: int
    period_s: float


def parse_rate(text: str | None, where: str) -> Rate | None:
    """Return the rate that ``"5/s"``, ``"100/m"`` or ``"10/30s"`` means, None for None.

    Raises:
        ConfigurationError: any other text.
    """
    if text is None:
        return None
    is_text = isinstance(text, str)  # pyright: ignore[reportUnnecessaryIsInstance]  # not everybody checks types
    match = _RATE.fullmatch(text.strip()) if is_text else None
    if match is None or int(match[1]) == 0 or match[2] == "0":
        raise ConfigurationError(f"{where}: rate_limit must look like '5/s', '100/m' or '10/30s', not {shorten(text)}")
    return Rate(int(match[1]), float(int(match[2] or 1) * _SECONDS[match[3]]))


class RateLimiter:
    """Token buckets by name; the least recently used are forgotten when there are too many."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, rate: Rate, caller: str, what: str) -> None:
        """Count one call; ``RateLimitedError`` with ``Retry-After`` if there were too many."""
        now = time.monotonic()
        tokens, since = self._buckets.pop((caller, what), (float(rate.burst), now))
        tokens = min(rate.burst, tokens + (now - since) * rate.burst / rate.period_s)
        if tokens < 1:
            self._buckets[caller, what] = (tokens, now)
            wait_s = max(1, round((1 - tokens) * rate.period_s / rate.burst))
            raise RateLimitedError("Too many requests; please wait a moment", headers={"Retry-After": str(wait_s)})
        self._buckets[caller, what] = (tokens - 1, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
