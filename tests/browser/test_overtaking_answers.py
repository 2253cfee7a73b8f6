"""Answers that overtake each other while a page has no stream: no older value comes back, whatever its kind."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import CONNECTION_LOST, Tabs
from tests.browser.dom import count_answers, press, seen, values, wait_for_answers, watch_signal, watch_text
from tests.browser.proxy import Proxy

pytestmark = pytest.mark.browser
StartProxy = Callable[[int], Proxy]
REOPENED_MS = 30_000

# What is pressed first, what is pressed twice and answered in the wrong order, and what the page shows in the end.
CASES = {
    "a number": ("/", [], ["Count", "Count"], "#count", 2),
    "none": ("/odd", [], ["Seven", "None"], "#maybe", "<>"),
    "a list": ("/odd", [], ["Push", "Clear"], "#items", []),
    "a key": ("/odd", [], ["Apple", "Green apple"], "#words", {"apple": "green"}),
    "another key": ("/odd", [], ["Apple", "Dotted"], "#words", {"apple": "red", "a.b": "x"}),
    "a key that is removed": ("/odd", ["Apple"], ["Green apple", "No apple"], "#words", {}),
    "a key beside one that is removed": ("/odd", ["Apple"], ["No apple", "Dotted"], "#words", {"a.b": "x"}),
}


def cut_off(page: Page, proxy: Proxy) -> None:
    """Leaves the page without a stream until further notice."""
    proxy.hold_streams()
    proxy.cut_streams()
    expect(page.locator("#connected")).to_have_text("no")


def reconnect(page: Page, proxy: Proxy) -> None:
    """Lets the page have a stream again."""
    proxy.hold_streams(False)
    expect(page.locator("#connected")).to_have_text("yes", timeout=REOPENED_MS)


def held_in_turn(page: Page, proxy: Proxy, names: list[str]) -> None:
    """Presses buttons, one after the other, and keeps all answers."""
    proxy.hold_answers()
    for number, name in enumerate(names, 1):
        press(page, name)
        proxy.wait_held(number)


def shown(page: Page, selector: str) -> Any:
    """Returns what an element shows, as JSON if it is some; a key that was looked at without being there is empty."""
    text = page.locator(selector).text_content() or ""
    value = text if text.startswith("<") else json.loads(text)
    return {key: item for key, item in value.items() if item} if isinstance(value, dict) else value


def wait_for_change(page: Page) -> None:
    """Returns once the watched element has shown something else."""
    page.wait_for_function("() => window.seen.length > 1")


@pytest.mark.parametrize("reopens", [False, True], ids=["cut off", "reopened"])
@pytest.mark.parametrize("case", CASES)
def test_an_answer_that_was_overtaken_brings_nothing_older(
    site: Any, tabs: Tabs, start_proxy: StartProxy, case: str, reopens: bool
) -> None:
    tabs.allow(CONNECTION_LOST)
    path, first, names, selector, wanted = CASES[case]
    proxy = start_proxy(site.port)
    page = tabs.open(proxy.url + path)
    watch_text(page, selector)
    for name in first:
        press(page, name)
        wait_for_change(page)
    cut_off(page, proxy)
    count_answers(page)
    held_in_turn(page, proxy, names)
    proxy.release(1)
    wait_for_answers(page, 1)
    before = len(seen(page))
    if reopens:
        reconnect(page, proxy)
        assert shown(page, selector) == wanted
        before = len(seen(page))
    proxy.release(0)
    wait_for_answers(page, 2)
    assert shown(page, selector) == wanted
    if reopens or ("another" not in case and "beside" not in case):
        assert len(seen(page)) == before, seen(page)
    if not reopens:
        reconnect(page, proxy)
        assert shown(page, selector) == wanted


@pytest.mark.parametrize("reopens", [False, True], ids=["cut off", "reopened"])
def test_a_fragment_that_was_overtaken_is_not_shown(
    site: Any, tabs: Tabs, start_proxy: StartProxy, reopens: bool
) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(site.port)
    page = tabs.open(f"{proxy.url}/chat")
    cut_off(page, proxy)
    count_answers(page)
    proxy.hold_answers()
    for number, text in enumerate(("one", "two"), 1):
        page.locator("#text").fill(text)
        page.get_by_role("button", name="Say").click()
        proxy.wait_held(number)
    proxy.release(1)
    wait_for_answers(page, 1)
    expect(page.locator("#log li")).to_have_text(["one", "two"])
    if reopens:
        reconnect(page, proxy)
    proxy.release(0)
    wait_for_answers(page, 2)
    assert page.locator("#log li").all_text_contents() == ["one", "two"]


def test_an_answer_from_before_a_stream_that_has_come_and_gone_changes_nothing(
    site: Any, tabs: Tabs, start_proxy: StartProxy
) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(site.port)
    session = tabs.session()
    page, other = tabs.open(proxy.url, session), tabs.open(site.url, session)
    watch_text(page, "#count")
    cut_off(page, proxy)
    count_answers(page)
    held_in_turn(page, proxy, ["Count"])
    reconnect(page, proxy)
    for count in (2, 3):
        press(other, "Count")
        expect(page.locator("#count")).to_have_text(str(count))
    cut_off(page, proxy)
    proxy.release(0)
    wait_for_answers(page, 1)
    assert seen(page) == ["0", "1", "2", "3"]


def test_a_stream_whose_first_values_were_overtaken_by_an_answer_is_opened_again(
    site: Any, tabs: Tabs, start_proxy: StartProxy
) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(site.port)
    page = tabs.open(proxy.url)
    watch_signal(page, "count")
    cut_off(page, proxy)
    proxy.hold_parts()
    proxy.hold_streams(False)
    proxy.wait_part_held()
    press(page, "Count", 2)
    expect(page.locator("#count")).to_have_text("2")
    proxy.hold_parts(False)
    expect(page.locator("#connected")).to_have_text("yes", timeout=REOPENED_MS)
    press(page, "Count")
    expect(page.locator("#count")).to_have_text("3")
    assert values(page) == sorted(values(page))


def test_what_was_before_a_deletion_stays_away_and_what_comes_after_it_is_shown(
    site: Any, tabs: Tabs, start_proxy: StartProxy
) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(site.port)
    page = tabs.open(proxy.url)
    watch_text(page, "#count")
    cut_off(page, proxy)
    press(page, "Count")
    expect(page.locator("#count")).to_have_text("1")
    count_answers(page)
    held_in_turn(page, proxy, ["Count", "Count", "Forget"])
    for index, answers in ((2, 1), (0, 2)):
        proxy.release(index)
        wait_for_answers(page, answers)
    proxy.hold_answers(False)
    press(page, "Count")  # its number is lower than that of the answer which is still held
    wait_for_answers(page, 3)
    proxy.release(1)
    wait_for_answers(page, 4)
    assert seen(page) == ["0", "1", "0", "1"]
    reconnect(page, proxy)
    assert seen(page) == ["0", "1", "0", "1"]


def test_answers_of_a_state_that_no_stream_brings_are_shown_in_order(
    site: Any, tabs: Tabs, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(site.port)
    page = tabs.open(f"{proxy.url}/aside")
    watch_text(page, "#total")
    count_answers(page)
    held_in_turn(page, proxy, ["Add"] * 3)
    for index, answers in ((1, 1), (0, 2), (2, 3)):
        proxy.release(index)
        wait_for_answers(page, answers)
    assert seen(page) == ["0", "2", "3"]
