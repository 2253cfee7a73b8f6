"""Two tabs behind a network that delays and cuts at random: nothing goes back, nothing is lost, each click counts once."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import CONNECTION_LOST, Tabs
from tests.browser.dom import overwritten, press, reopen, seen, watch_text, watch_writes
from tests.browser.proxy import Proxy

pytestmark = pytest.mark.browser
StartProxy = Callable[[int], Proxy]


def never_goes_back(page: Page) -> None:
    """Checks that the numbers that a page has shown only grow."""
    shown = [int(text) for text in seen(page) if text]
    assert shown == sorted(shown), shown


@pytest.mark.parametrize("steps", [80, pytest.param(800, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
def test_r17_two_tabs_that_click_and_type_at_random_never_go_back_and_end_equal_to_the_store(
    site: Any, tabs: Tabs, start_proxy: StartProxy, steps: int
) -> None:
    proxy = start_proxy(site.port)
    session = tabs.session()
    first, second = tabs.open(proxy.url, session), tabs.open(proxy.url, session)
    for page in (first, second):
        watch_text(page, "#count")
    watch_writes(first, "#note")
    proxy.delay(0.15, 0.3, 0.3, seed=steps)
    chance = random.Random(steps)
    clicks = adds = 0
    text = ""
    for _ in range(steps):
        match chance.randint(0, 4):
            case 0:
                press(chance.choice([first, second]), "Count")
                clicks += 1
            case 1:
                press(chance.choice([first, second]), "Add", 2)
                adds += 2
            case _:
                letter = chance.choice("abcdefgh")
                first.locator("#note").press(letter)
                text += letter
    for page in (first, second):
        expect(page.locator("#count")).to_have_text(str(clicks))
        expect(page.locator("#total")).to_have_text(str(adds))
        expect(page.locator("#said")).to_have_text(text)
        expect(page.locator("#note")).to_have_value(text)
        never_goes_back(page)
    assert overwritten(first) == []
    fresh = tabs.open(site.url, session)
    for selector, wanted in (("#count", clicks), ("#total", adds), ("#said", text)):
        expect(fresh.locator(selector)).to_have_text(str(wanted))


@pytest.mark.parametrize("steps", [80, pytest.param(800, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
def test_r17_two_tabs_whose_streams_are_cut_while_they_click_never_go_back_and_end_equal_to_the_store(
    site: Any, tabs: Tabs, start_proxy: StartProxy, steps: int
) -> None:
    """Answers of overlapping clicks come late and in any order, before, while and after the streams open again."""
    tabs.allow(CONNECTION_LOST)
    tabs.allow("ERR_INVALID_HTTP_RESPONSE")  # a stream that is ended before its head has come
    proxy = start_proxy(site.port)
    session = tabs.session()
    pages = [tabs.open(proxy.url, session) for _ in range(2)]
    for page in pages:
        watch_text(page, "#count")
    watch_writes(pages[0], "#note")
    proxy.delay(0.15, 0.6, 0.3, seed=steps)
    chance = random.Random(steps)
    clicks = 0
    text = ""
    for _ in range(steps):
        match chance.randint(0, 9):
            case 0:
                proxy.cut_streams()
            case 1:
                proxy.end_streams()
            case 2 | 3:
                reopen(chance.choice(pages))
            case 4:
                letter = chance.choice("abcdefgh")
                pages[0].locator("#note").press(letter)
                text += letter
            case _:
                press(chance.choice(pages), "Count")
                clicks += 1
    for page in pages:
        expect(page.locator("#connected")).to_have_text("yes", timeout=60_000)
        expect(page.locator("#count")).to_have_text(str(clicks))
        expect(page.locator("#said")).to_have_text(text)
        expect(page.locator("#note")).to_have_value(text)
        never_goes_back(page)
    assert overwritten(pages[0]) == []
    fresh = tabs.open(site.url, session)
    expect(fresh.locator("#count")).to_have_text(str(clicks))
    expect(fresh.locator("#said")).to_have_text(text)


@pytest.mark.parametrize("cuts", [12, pytest.param(100, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
def test_r24_r48_each_click_counts_once_wherever_the_connection_is_cut(
    site: Any, tabs: Tabs, start_proxy: StartProxy, cuts: int
) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(site.port)
    page = tabs.open(proxy.url)
    watch_text(page, "#count")
    for number in range(1, cuts + 1):
        # Before the server has the click, while its answer is on its way, after it.
        proxy.cut_next_post(("before", "inside", "after")[number % 3])
        press(page, "Count")
        proxy.wait_cut(number)
    expect(page.locator("#count")).to_have_text(str(cuts), timeout=60_000)
    never_goes_back(page)
    page.reload()
    expect(page.locator("#count")).to_have_text(str(cuts))


@pytest.mark.parametrize("visitors", [6, pytest.param(100, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
def test_r48_the_first_click_of_a_visitor_without_a_cookie_counts_once_wherever_its_connection_is_cut(
    site: Any, tabs: Tabs, start_proxy: StartProxy, visitors: int
) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(site.port)
    for number in range(1, visitors + 1):
        context = tabs.session()
        page = tabs.open(proxy.url + "/unwatched", context, is_live=False)
        assert context.cookies() == []
        proxy.cut_next_post(("before", "inside", "after")[number % 3])
        press(page, "Add")
        proxy.wait_cut(number)
        expect(page.locator("#total")).to_have_text(str(number))
        context.close()
    watching = tabs.open(site.url)
    expect(watching.locator("#total")).to_have_text(str(visitors))
