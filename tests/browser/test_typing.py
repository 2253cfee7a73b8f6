"""A field that is being typed in: no letter is lost to its own echo, to a late request or to a slow network."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Tabs
from tests.browser.dom import overwritten, wait_for_text, watch_writes
from tests.browser.proxy import Proxy

pytestmark = pytest.mark.browser
StartProxy = Callable[[int], Proxy]
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def type_at_random(page: Page, selector: str, count: int, seed: int, *, delay_ms: int) -> str:
    """Types and deletes `count` times, and returns what must stand in the field then."""
    chance = random.Random(seed)
    field, text = page.locator(selector), ""
    for _ in range(count):
        if text and chance.random() < 0.2:
            field.press("Backspace")
            text = text[:-1]
        else:
            letter = chance.choice(LETTERS)
            field.press("Space" if letter == " " else letter)
            text += letter
        if delay_ms:
            page.wait_for_timeout(chance.randint(0, delay_ms))  # the typist's own pace
    return text


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.full)])
@pytest.mark.parametrize("slow", ["requests", "answers", "streams", "all"])
def test_r46_what_is_typed_never_goes_back_on_a_slow_network(
    site: Any, tabs: Tabs, start_proxy: StartProxy, slow: str, count: int
) -> None:
    proxy = start_proxy(site.port)
    session = tabs.session()
    page, other = tabs.open(proxy.url, session), tabs.open(site.url, session)
    watch_writes(page, "#note")
    proxy.delay(*(0.4 if slow in (name, "all") else 0 for name in ("requests", "answers", "streams")))
    text = type_at_random(page, "#note", count, seed=count, delay_ms=20)
    expect(page.locator("#note")).to_have_value(text)
    wait_for_text(other, "#said", text)
    wait_for_text(page, "#said", text)
    expect(other.locator("#note")).to_have_value(text)
    assert overwritten(page) == []
    # The other tab's change is no echo, and is shown.
    other.locator("#note").fill("mine")
    expect(page.locator("#note")).to_have_value("mine")
    assert overwritten(page) == [[text, "mine"]]
