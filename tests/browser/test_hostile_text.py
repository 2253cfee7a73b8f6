"""Text that is code to a browser, to Datastar or to the stream: it arrives to the last character and never runs."""

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.apps.browser_site import CORPUS, HARD_TEXTS
from tests.browser.conftest import Tabs
from tests.browser.dom import hacked, press, wait_for_text

pytestmark = pytest.mark.browser
NUMBERS = range(len(HARD_TEXTS))


def test_texts_arrive_as_they_are_as_arguments_of_actions_and_as_signals(site: Any, tabs: Tabs) -> None:
    """A name that is code would run in every page that shows it."""
    session = tabs.session()
    page, other = tabs.open(site.url, session), tabs.open(site.url, session)
    for number in NUMBERS:
        press(page, f"Put {number}")
        wait_for_text(page, "#echo", HARD_TEXTS[number])
        wait_for_text(other, "#echo", HARD_TEXTS[number])
        # A new page has them in its markup, where they are seeds of its signals.
        third = tabs.open(site.url, session)
        wait_for_text(third, "#echo", HARD_TEXTS[number])
        assert [hacked(one) for one in (page, other, third)] == [None] * 3
        third.close()
    expect(page.locator("#total")).to_have_text("0")


def test_texts_arrive_as_they_are_through_a_bound_field(site: Any, tabs: Tabs) -> None:
    """A text with `@word(` in it would stop every signal of every page that shows it."""
    session = tabs.session()
    page, other = tabs.open(site.url, session), tabs.open(site.url, session)
    for text in HARD_TEXTS:
        line = text.replace("\n", " ")  # an input has one line
        page.locator("#note").fill(line)
        wait_for_text(other, "#said", line)
        expect(other.locator("#note")).to_have_value(line)
    assert hacked(page) is None
    assert hacked(other) is None


def test_texts_arrive_as_they_are_in_a_fragment(site: Any, tabs: Tabs) -> None:
    """A message in a list would run code for everybody who watches it."""
    ada, bob = tabs.open(site.url + "/chat"), tabs.open(site.url + "/chat")
    for number, text in enumerate(HARD_TEXTS, 1):
        ada.locator("#text").fill(text)
        ada.get_by_role("button", name="Say").click()
        for page in (ada, bob):
            wait_for_text(page, f"#log li:nth-child({number})", text)
    late = tabs.open(site.url + "/chat")
    assert late.locator("#log li").all_text_contents() == list(HARD_TEXTS)
    assert [hacked(page) for page in (ada, bob, late)] == [None] * 3


def test_texts_that_an_event_returns_are_text(site: Any, tabs: Tabs) -> None:
    """A name in an answer would be markup, with scripts in it."""
    page = tabs.open(site.url + "/answers")
    for number, text in enumerate(HARD_TEXTS):
        press(page, f"Say {number}")
        wait_for_text(page, "#updates", text)
    assert hacked(page) is None


def test_two_hundred_texts_are_nothing_but_text(site: Any, tabs: Tabs) -> None:
    """Somebody's name would run code in the page of everybody who sees it."""
    assert len(CORPUS) == 200
    session = tabs.session()
    page = tabs.open(site.url + "/corpus", session)
    press(page, "Fill")
    wait_for_text(page, f"#seed-{len(CORPUS) - 1}", CORPUS[-1])
    seeded = tabs.open(site.url + "/corpus", session)
    wait_for_text(seeded, f"#seed-{len(CORPUS) - 1}", CORPUS[-1])
    read = "kind => [...document.querySelectorAll(`output[id^=${kind}-]`)].map(one => one.textContent)"
    for one in (page, seeded):
        assert one.evaluate(read, "seed") == list(CORPUS)
        assert one.evaluate(read, "value") == list(CORPUS)
        assert hacked(one) is None
