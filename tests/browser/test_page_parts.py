"""Forms, progress, difficult values, several states of one class, and everything that an event may answer."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.apps.browser_site import HARD_TEXTS
from tests.browser.conftest import Tabs
from tests.browser.dom import count_answers, hacked, seen, wait_for_answers, wait_for_text, watch_text

pytestmark = pytest.mark.browser


def test_a_form_shows_an_error_at_each_field_until_it_is_right(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url + "/form")
    send = page.get_by_role("button", name="Send")
    send.click()
    expect(page.locator("#name-error")).to_have_text("The name is missing")
    expect(page.locator("#age-error")).to_have_text("The age is no number")
    page.locator("#name").fill("Ada")
    page.locator("#age").fill("many")
    send.click()
    expect(page.locator("#name-error")).to_have_text("")
    expect(page.locator("#age-error")).to_have_text("The age is no number")
    page.locator("#age").fill("36")
    send.click()
    expect(page.locator("#accepted")).to_have_text("Ada, 36")
    expect(page.locator("#age-error")).to_have_text("")


def test_a_progress_bar_moves_through_every_step_in_both_tabs(site: Any, tabs: Tabs) -> None:
    session = tabs.session()
    pages = [tabs.open(site.url + "/job", session) for _ in range(2)]
    for page in pages:
        watch_text(page, "#step")
    pages[0].get_by_role("button", name="Run").click()
    for page in pages:
        expect(page.locator("#step")).to_have_text("done")
        expect(page.locator("#bar")).to_have_js_property("value", 100)
        assert seen(page) == ["idle", "step 1", "step 2", "step 3", "step 4", "step 5", "done"]


def test_none_in_an_optional_field_keeps_what_is_bound_to_it_alive(site: Any, tabs: Tabs) -> None:
    session = tabs.session()
    page, other = tabs.open(site.url + "/odd", session), tabs.open(site.url + "/odd", session)
    for name, text in (("Seven", "<7>"), ("None", "<>"), ("Seven", "<7>"), ("None", "<>"), ("Seven", "<7>")):
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator("#maybe")).to_have_text(text)
        expect(other.locator("#maybe")).to_have_text(text)


def test_a_key_that_is_removed_from_a_dict_disappears_and_may_come_back(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url + "/odd")
    steps = (
        ("Apple", '{"apple":"red"}', "<red>"),
        ("Dotted", '{"apple":"red","a.b":"x"}', "<red>"),
        ("No apple", '{"a.b":"x"}', "<>"),
        ("Green apple", '{"a.b":"x","apple":"green"}', "<green>"),
        ("Apple", '{"a.b":"x","apple":"red"}', "<red>"),
    )
    for name, words, apple in steps:
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator("#apple")).to_have_text(apple)
        page.wait_for_function(
            "(words) => JSON.stringify(Object.entries(JSON.parse(document.querySelector('#words').textContent)).sort())"
            " === JSON.stringify(Object.entries(JSON.parse(words)).sort())",
            arg=words,
        )


def test_a_list_grows_in_place_and_is_emptied(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url + "/odd")
    items: list[str] = []
    for index in range(3):
        items.append(f"p{index}")
        page.get_by_role("button", name="Push").click()
        wait_for_text(page, "#items", json.dumps(items, separators=(",", ":")))
    page.get_by_role("button", name="Clear").click()
    wait_for_text(page, "#items", "[]")


def test_an_integer_that_no_javascript_number_holds_arrives_exact_as_text(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url + "/odd")
    expect(page.locator("#huge")).to_have_text("0")
    page.get_by_role("button", name="Grow").click()
    expect(page.locator("#huge")).to_have_text("1152921504606846977")
    page.reload()
    expect(page.locator("#huge")).to_have_text("1152921504606846977")


def test_components_and_records_of_one_class_live_side_by_side_in_a_page(site: Any, tabs: Tabs) -> None:
    page, stranger = tabs.open(site.url + "/twins"), tabs.open(site.url + "/twins")
    for name in ("left", "left", "right", "one", "odd", "odd"):
        page.get_by_role("button", name=name, exact=True).click()
    for name, text in (("left", "2"), ("right", "1"), ("one", "9"), ("odd", "8")):
        expect(page.locator(f"#{name}")).to_have_text(text)
    for name, text in (("one", "9"), ("odd", "8"), ("left", "0"), ("right", "0")):
        expect(stranger.locator(f"#{name}")).to_have_text(text)


def test_a_redirect_leads_to_exactly_its_address_under_a_strict_policy(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url + "/answers")
    page.get_by_role("button", name="Go").click()
    page.wait_for_url(re.compile("/there"))
    assert page.evaluate("decodeURIComponent(location.search)") == "?quote='\"&x=@post('/x')"


def test_a_dispatched_event_carries_its_detail_exactly_under_a_strict_policy(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url + "/answers")
    page.get_by_role("button", name="Tell").click()
    expect(page.locator("#told")).not_to_have_text("")
    assert json.loads(page.locator("#told").text_content() or "") == {
        "text": HARD_TEXTS[0] + HARD_TEXTS[3],
        "none": None,
    }
    assert hacked(page) is None


def test_a_script_runs_once_under_a_strict_policy_and_leaves_nothing_behind(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url + "/answers")
    count_answers(page)
    page.get_by_role("button", name="Run").click()
    wait_for_answers(page, 1)
    assert page.title() == 'ran 2"4'
    assert page.locator("body > [data-init]:not([hidden])").count() == 0


def test_elements_are_appended_and_removed(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url + "/answers")
    for count in (1, 2):
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#box .new")).to_have_count(count)
    page.get_by_role("button", name="Hide").click()
    expect(page.locator("#box .new")).to_have_count(0)


def test_an_event_may_change_its_state_and_answer_with_several_things(site: Any, tabs: Tabs) -> None:
    page = tabs.open(site.url + "/answers")
    page.get_by_role("button", name="Several").click()
    expect(page.locator("#bold")).to_have_text("two")
    expect(page.locator("#told")).to_have_text('{"text":"three","none":0}')
    expect(page.locator("#asked")).to_have_text("1")
