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


def test_headers_without_a_good_cookie_are_kept_in_small_number_and_never_mistaken() -> None:
    cookie = SessionCookie(["k" * 40], "x", idle_s=1000, max_age_s=1000)
    value = cookie.value(new_ticket())
    tracemalloc.start()
    try:
        for number in range(3000):
            assert cookie.read(f"x={number}; y={'z' * 900}".encode(), False) is None
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 2_000_000
    for is_secure, name in ((False, "x"), (True, "__Host-x")):
        for _ in range(2):
            assert cookie.read(f"{name}={value}".encode(), is_secure) is not None
            assert cookie.read(f"{name}={value}".encode(), not is_secure) is None
