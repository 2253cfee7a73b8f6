"""What logging in promises."""

import pytest
from starlette.requests import Request

from faststate_asgi import AuthorizationError
from sample_site.account import USERS, refuse_other_sites, safe_next, user_with_password

WRONG = [("ada", "builder"), ("ada", ""), ("", ""), ("eve", "lovelace"), ("bob", "\ud800")]
UNSAFE = [
    "",
    "reports",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\u2028/evil.example",
    "https://evil.example",
    "javascript:alert(1)",
    "/a\r\nset-cookie: x=1",
]


def request_with(**headers: str) -> Request:
    """Return a POST with these headers, written with underscores."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/login", "query_string": b"", "headers": raw})


def test_the_right_password_opens() -> None:
    assert user_with_password("ada", "lovelace") is USERS["ada"]
    assert user_with_password("bob", "builder") is USERS["bob"]


@pytest.mark.parametrize(
    ("name", "password"), [("ada", "builder"), ("ada", ""), ("", ""), ("eve", "lovelace"), ("bob", "\ud800")]
)
def test_anything_else_does_not(name: str, password: str) -> None:
    assert user_with_password(name, password) is None


@pytest.mark.parametrize("target", ["/", "/reports", "/product/compass?x=1", "/a%20b"])
def test_a_path_on_this_site_is_followed(target: str) -> None:
    assert safe_next(target) == target


@pytest.mark.parametrize("target", UNSAFE)
def test_what_could_leave_the_site_is_not(target: str) -> None:
    assert safe_next(target) == "/"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "https://evil.example", "host": "shop.example"},
        {"origin": "null", "host": "shop.example"},
    ],
)
def test_a_form_of_another_site_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthorizationError):
        refuse_other_sites(request_with(**headers))


@pytest.mark.parametrize(
    "headers",
    [{}, {"sec_fetch_site": "same-origin"}, {"origin": "https://shop.example", "host": "shop.example"}],
)
def test_the_own_form_is_accepted(headers: dict[str, str]) -> None:
    refuse_other_sites(request_with(**headers))
