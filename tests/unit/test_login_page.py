"""Where a visitor who has to log in is sent: below ``root_path``, and back to this site only."""

import pytest

from faststate_asgi.login_page import login_target, login_target_from

SCOPE = {"path": "/cart items", "query_string": b"page=2&sort=a", "root_path": "/shop/"}


def test_the_way_back_is_the_page_with_its_query() -> None:
    assert login_target("/login", SCOPE) == "/shop/login?next=/cart%2520items%3Fpage%3D2%26sort%3Da"


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "\\/evil.example", "///evil.example"])
def test_no_path_leads_back_to_another_site(path: str) -> None:
    assert login_target("/login", {"path": path}) == "/login?next=/evil.example"


def test_a_login_page_with_a_query_keeps_it() -> None:
    assert login_target("/login?theme=dark", {"path": "/"}) == "/login?theme=dark&next=/"


def test_a_login_page_elsewhere_is_not_below_the_root() -> None:
    assert login_target("https://id.example/login", {"path": "/", "root_path": "/shop"}) == (
        "https://id.example/login?next=/"
    )


@pytest.mark.parametrize("referer", [None, "", "http://other.example/page", "http://shop.example", "/page"])
def test_an_event_of_no_page_of_this_site_has_no_way_back(referer: str | None) -> None:
    assert login_target_from("/login", SCOPE, "shop.example", referer) == "/shop/login"


def test_an_event_leads_back_to_its_page() -> None:
    referer = "https://shop.example/shop/cart%20items?page=2"
    target = login_target_from("/login", SCOPE, "shop.example", referer)
    assert target == "/shop/login?next=/shop/cart%2520items%3Fpage%3D2"
