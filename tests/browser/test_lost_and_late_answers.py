"""Networks that lose, repeat and delay: one click is one execution, and no page goes back in time."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import CONNECTION_LOST, Tabs
from tests.browser.dom import count_answers, press, seen, wait_for_answers, watch_text
from tests.browser.proxy import Proxy

pytestmark = pytest.mark.browser
StartProxy = Callable[[int], Proxy]


@pytest.mark.parametrize("path", ["/", "/unwatched"])
@pytest.mark.parametrize("has_session", [True, False])
def test_a_click_whose_answer_was_lost_is_executed_once(
    site: Any, tabs: Tabs, start_proxy: StartProxy, path: str, has_session: bool
) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(site.port)
    page = tabs.open(proxy.url + path, is_live=path == "/")
    if not has_session:
        page.context.clear_cookies()
    elif path == "/unwatched":
        press(page, "Count")
        expect(page.locator("#count")).to_have_text("1")
    before = int(page.locator("#count").text_content() or 0)
    count_answers(page)
    already = len(proxy.posts())
    proxy.reset_next_posts(2)
    press(page, "Count")
    wait_for_answers(page, 1)
    assert len(proxy.posts()) - already >= 3
    if has_session or path == "/unwatched":
        expect(page.locator("#count")).to_have_text(str(before + 1))
    press(page, "Count")
    wait_for_answers(page, 2)
    page.reload()
    fresh = tabs.open(proxy.url, page.context)
    expect(fresh.locator("#count")).to_have_text(str(before + 2))


def test_late_answers_in_the_wrong_order_never_bring_back_an_older_value(
    site: Any, tabs: Tabs, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(site.port)
    page = tabs.open(proxy.url)
    watch_text(page, "#count")
    count_answers(page)
    proxy.hold_answers()
    for count in range(1, 5):
        press(page, "Count")
        expect(page.locator("#count")).to_have_text(str(count))  # by the stream: the answer is held
        proxy.wait_held(count)
    for index in (3, 1, 2, 0):
        proxy.release(index)
    wait_for_answers(page, 4)
    press(page, "Count")
    expect(page.locator("#count")).to_have_text("5")
    assert seen(page) == ["0", "1", "2", "3", "4", "5"]


def test_a_click_before_the_stream_is_open_is_shown_once_it_is(site: Any, tabs: Tabs, start_proxy: StartProxy) -> None:
    proxy = start_proxy(site.port)
    proxy.hold_streams()
    page = tabs.open(proxy.url, is_live=False)
    watch_text(page, "#count")
    count_answers(page)
    page.get_by_role("button", name="Count").click()
    wait_for_answers(page, 1)
    proxy.hold_streams(False)
    expect(page.locator("#count")).to_have_text("1")
    press(page, "Count")
    expect(page.locator("#count")).to_have_text("2")
    assert seen(page) == ["0", "1", "2"]


@pytest.mark.parametrize("late_ms", [0, 1_500])
def test_an_answer_from_before_a_reconnect_that_comes_after_it_changes_nothing(
    site: Any, tabs: Tabs, start_proxy: StartProxy, late_ms: int
) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(site.port)
    page = tabs.open(proxy.url)
    proxy.hold_streams()
    proxy.cut_streams()
    expect(page.locator("#connected")).to_have_text("no")
    watch_text(page, "#count")
    count_answers(page)
    proxy.hold_answers()
    press(page, "Count")
    proxy.wait_held(1)
    proxy.hold_streams(False)
    expect(page.locator("#connected")).to_have_text("yes", timeout=30_000)
    press(page, "Count")
    proxy.wait_held(2)
    page.wait_for_timeout(late_ms)  # the network's, not ours: nothing happens that could be awaited
    proxy.release(0)
    proxy.release(1)
    wait_for_answers(page, 2)
    expect(page.locator("#count")).to_have_text("2")
    assert seen(page) == ["0", "1", "2"]
