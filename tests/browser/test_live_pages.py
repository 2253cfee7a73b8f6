"""Several browsers and tabs on one site: who sees what, and when."""

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Tabs
from tests.browser.dom import press, wait_for_text

pytestmark = pytest.mark.browser


def test_each_click_on_a_global_state_shows_in_both_browsers(site: Any, tabs: Tabs) -> None:
    ada, bob = tabs.open(site.url), tabs.open(site.url)
    for total in range(1, 6):
        (ada if total % 2 else bob).get_by_role("button", name="Add").click()
        expect(ada.locator("#total")).to_have_text(str(total))
        expect(bob.locator("#total")).to_have_text(str(total))


def test_two_tabs_of_one_session_share_its_state_and_another_session_does_not_see_it(site: Any, tabs: Tabs) -> None:
    session = tabs.session()
    first, second = tabs.open(site.url, session), tabs.open(site.url, session)
    stranger = tabs.open(site.url)
    first.get_by_role("button", name="Count").click()
    expect(second.locator("#count")).to_have_text("1")
    second.get_by_role("button", name="Count").click()
    expect(first.locator("#count")).to_have_text("2")
    # The total comes on the same stream and later, so the stranger's page is up to date when it shows.
    first.get_by_role("button", name="Add").click()
    expect(stranger.locator("#total")).to_have_text("1")
    expect(stranger.locator("#count")).to_have_text("0")


def test_a_reload_shows_the_same_state(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url)
    press(page, "Count", 3)
    expect(page.locator("#count")).to_have_text("3")
    page.locator("#note").fill("kept")
    expect(page.locator("#said")).to_have_text("kept")
    page.reload()
    expect(page.locator("#connected")).to_have_text("yes")
    expect(page.locator("#count")).to_have_text("3")
    expect(page.locator("#note")).to_have_value("kept")


def test_a_bound_text_reaches_the_other_tab_and_may_be_changed_there(site: Any, tabs: Tabs) -> None:
    session = tabs.session()
    first, second = tabs.open(site.url, session), tabs.open(site.url, session)
    first.locator("#note").fill("hello there")
    wait_for_text(second, "#said", "hello there")
    expect(second.locator("#note")).to_have_value("hello there")
    second.locator("#note").fill("")
    wait_for_text(first, "#said", "")
    expect(first.locator("#note")).to_have_value("")


def test_a_text_is_typed_at_full_speed_without_losing_a_letter(site: Any, tabs: Tabs) -> None:
    session = tabs.session()
    first, second = tabs.open(site.url, session), tabs.open(site.url, session)
    text = "The quick brown fox jumps over the lazy dog."
    for delay in (0, 20, 60):
        first.locator("#draft").fill("")
        first.locator("#draft").press_sequentially(text, delay=delay)
        expect(first.locator("#draft")).to_have_value(text)
        wait_for_text(second, "#said", text)
        expect(second.locator("#draft")).to_have_value(text)
        expect(first.locator("#draft")).to_have_value(text)


@pytest.mark.parametrize("path", ["/", "/unwatched"])
def test_no_fast_click_is_lost(site: Any, tabs: Tabs, path: str) -> None:
    page = tabs.open(site.url + path, is_live=path == "/")
    if path == "/unwatched":  # the first click makes the session
        press(page, "Count")
        expect(page.locator("#count")).to_have_text("1")
        press(page, "Count", 19)
    else:
        page.get_by_role("button", name="Count").dblclick()
        press(page, "Count", 18)
    press(page, "Add", 20)
    expect(page.locator("#count")).to_have_text("20")
    expect(page.locator("#total")).to_have_text("20")


def test_an_error_is_shown_as_text_changes_nothing_and_goes_with_the_next_click(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url)
    expect(page.locator("#faststate-error")).to_be_hidden()
    page.get_by_role("button", name="Fail").click()
    expect(page.locator("#faststate-error")).to_have_text("This <b>button</b> never works.")
    expect(page.locator("#faststate-error")).to_be_visible()
    expect(page.locator("#count")).to_have_text("0")
    page.get_by_role("button", name="Count").click()
    expect(page.locator("#faststate-error")).to_be_hidden()
    expect(page.locator("#count")).to_have_text("1")
