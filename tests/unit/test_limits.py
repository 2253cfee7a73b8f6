"""Rates: how they are written, and that nobody gets more."""

import pytest

from faststate_asgi import ConfigurationError, RateLimitedError
from faststate_asgi.limits import Rate, RateLimiter, parse_rate


@pytest.mark.parametrize(
    ("text", "burst", "period_s"),
    [("5/s", 5, 1), ("100/m", 100, 60), ("10/30s", 10, 30), ("1 / hour", 1, 3600), ("2/5 minutes", 2, 300)],
)
def test_rates_are_read(text: str, burst: int, period_s: float) -> None:
    assert parse_rate(text, "x") == Rate(burst, period_s)


@pytest.mark.parametrize("text", ["", "5", "0/s", "5/0s", "5/day", "-1/s", "five/s", 5, "5/s; drop"])
def test_other_texts_are_no_rates(text: str) -> None:
    with pytest.raises(ConfigurationError, match="rate_limit"):
        parse_rate(text, "x")


def test_no_rate_is_no_limit() -> None:
    assert parse_rate(None, "x") is None


def test_a_burst_is_followed_by_a_pause_with_its_length() -> None:
    limiter, rate = RateLimiter(), Rate(3, 60)
    for _ in range(3):
        limiter.take(rate, "caller", "event")
    with pytest.raises(RateLimitedError) as caught:
        limiter.take(rate, "caller", "event")
    assert caught.value.headers is not None
    assert 15 <= int(caught.value.headers["Retry-After"]) <= 20
    limiter.take(rate, "other", "event")
    limiter.take(rate, "caller", "other")
