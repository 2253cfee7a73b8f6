"""The session cookie."""

import tracemalloc

from faststate_asgi.identity import SessionCookie, new_ticket


def test_large_headers_with_a_good_cookie_are_not_kept() -> None:
    cookie = SessionCookie(["k" * 40], "x", idle_s=1000, max_age_s=1000)
    own = f"x={cookie.value(new_ticket())}; other=".encode()
    tracemalloc.start()
    try:
        for number in range(100):
            assert cookie.read(own + b"%d" % number * 10_000, False) is not None
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 100_000
