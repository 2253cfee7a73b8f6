"""Streams that are cut off in every way: the page says so, opens its stream again, and shows what is true."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import CONNECTION_LOST, SITE, Tabs
from tests.browser.dom import press
from tests.browser.proxy import Proxy

pytestmark = pytest.mark.browser
StartProxy = Callable[[int], Proxy]


@pytest.fixture
def quick_site(serve: Any, datastar_bundle: Path) -> Any:
    """The site with heartbeats so frequent that silence is noticed within two seconds."""
    return serve(SITE, env={"FASTSTATE_DATASTAR_URL": str(datastar_bundle), "FASTSTATE_HEARTBEAT": "0.3"})


def comes_back(page: Page) -> None:
    """Returns once the page has its stream again, and shows what was changed meanwhile."""
    expect(page.locator("#connected")).to_have_text("yes", timeout=40_000)
    expect(page.locator("#total")).to_have_text("1")
    press(page, "Add")
    expect(page.locator("#total")).to_have_text("2")


def test_r36_a_stream_that_is_silent_without_any_end_is_opened_again(
    quick_site: Any, tabs: Tabs, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(quick_site.port)
    page, other = tabs.open(proxy.url), tabs.open(quick_site.url)
    proxy.hold_streams()
    proxy.freeze_streams()
    expect(page.locator("#connected")).to_have_text("no")
    press(other, "Add")
    expect(other.locator("#total")).to_have_text("1")
    expect(page.locator("#total")).to_have_text("0")
    proxy.hold_streams(False)
    comes_back(page)
    assert sum("/sse" in request for request in proxy.requests) >= 2


def test_a_stream_with_heartbeats_only_is_left_alone(quick_site: Any, tabs: Tabs, start_proxy: StartProxy) -> None:
    proxy = start_proxy(quick_site.port)
    page = tabs.open(proxy.url)
    page.wait_for_timeout(3_000)  # more than the silence that counts
    expect(page.locator("#connected")).to_have_text("yes")
    assert sum("/sse" in request for request in proxy.requests) == 1


def response(status: str, content_type: str = "text/plain", body: str = "") -> bytes:
    """Returns a whole HTTP response."""
    headers = f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(response("200 OK", "text/html", "<p id=maintenance>Back soon</p>"), id="html"),
        pytest.param(response("204 No Content"), id="204", marks=pytest.mark.full),
        pytest.param(response("503 Busy"), id="503", marks=pytest.mark.full),
        pytest.param(response("403 Forbidden"), id="403", marks=pytest.mark.full),
    ],
)
def test_r22_r23_a_stream_that_something_between_answers_instead_is_opened_again(
    quick_site: Any, tabs: Tabs, start_proxy: StartProxy, answer: bytes
) -> None:
    tabs.allow(CONNECTION_LOST)
    tabs.allow(r"PatchElementsNoTargetsFound|503|403|status of")
    proxy = start_proxy(quick_site.port)
    page, other = tabs.open(proxy.url), tabs.open(quick_site.url)
    proxy.answer_streams(answer)
    already = len(proxy.requests)
    proxy.cut_streams()
    expect(page.locator("#connected")).to_have_text("no")
    press(other, "Add")
    expect(other.locator("#total")).to_have_text("1")
    while len(proxy.requests) == already:
        page.wait_for_timeout(50)  # the page asks again in its own time
    proxy.answer_streams(None)
    comes_back(page)


def test_r23_a_stream_that_ends_without_a_word_is_opened_again(
    quick_site: Any, tabs: Tabs, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(quick_site.port)
    page, other = tabs.open(proxy.url), tabs.open(quick_site.url)
    proxy.end_streams()
    press(other, "Add")
    comes_back(page)


@pytest.mark.full
def test_a_stream_that_was_refused_is_not_asked_for_again(quick_site: Any, tabs: Tabs, start_proxy: StartProxy) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(quick_site.port)
    page = tabs.open(proxy.url)
    page.context.clear_cookies()
    proxy.cut_streams()
    expect(page.locator("#faststate-error")).to_be_visible(timeout=30_000)
    asked = len(proxy.requests)
    page.wait_for_timeout(5_500)  # longer than a stream that was given up waits
    assert len(proxy.requests) == asked
