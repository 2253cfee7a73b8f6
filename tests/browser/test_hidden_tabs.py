"""Tabs that nobody looks at hold no stream, so that a browser's few connections are free; one that returns is right at once."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import SITE, Tabs
from tests.browser.dom import press
from tests.services import SiteServer

pytestmark = pytest.mark.browser
# Every page of a headless browser is visible, so these pages are told otherwise in the browser's place.
_INIT = """
Object.defineProperty(document, 'hidden', {get: () => window.isHidden ?? false})
Object.defineProperty(document, 'visibilityState', {get: () => document.hidden ? 'hidden' : 'visible'})
"""
_SET = "(isHidden) => { window.isHidden = isHidden; document.dispatchEvent(new Event('visibilitychange')) }"


@pytest.fixture
def counted_site(serve: Any, datastar_bundle: Path) -> SiteServer:
    """The site, which tells how many streams are open."""
    env = {"FASTSTATE_DATASTAR_URL": str(datastar_bundle), "FASTSTATE_DEBUG": "true", "FASTSTATE_SECRET_KEY": "k" * 32}
    site: SiteServer = serve(SITE, env=env)
    return site


def session(tabs: Tabs) -> BrowserContext:
    """Returns a browser session whose tabs can be hidden."""
    context = tabs.session()
    context.add_init_script(_INIT)
    return context


def hide(page: Page) -> None:
    """Brings another tab to the front."""
    page.evaluate(_SET, True)


def show(page: Page) -> None:
    """Brings the tab back to the front."""
    page.evaluate(_SET, False)


def until_streams(page: Page, site: SiteServer, count: int) -> None:
    """Returns once so many streams are open at the server; fails when the test's time is over."""
    while True:
        with urllib.request.urlopen(site.url + "/faststate/stats", timeout=10) as answer:
            if json.load(answer)["streams"] == count:
                return
        page.wait_for_timeout(20)


def test_r38_of_ten_tabs_over_six_connections_the_visible_one_is_answered_at_once(
    counted_site: SiteServer, tabs: Tabs, slack: float
) -> None:
    context = session(tabs)
    pages: list[Page] = []
    for _ in range(10):
        if pages:
            hide(pages[-1])
            until_streams(pages[-1], counted_site, 0)
        pages.append(tabs.open(counted_site.url, context))
    until_streams(pages[-1], counted_site, 1)
    for total in range(1, 4):
        press(pages[-1], "Add")
        expect(pages[-1].locator("#total")).to_have_text(str(total), timeout=500 * slack)


def test_r39_a_hidden_tab_shows_what_is_stored_as_soon_as_it_is_visible_again(
    counted_site: SiteServer, tabs: Tabs, slack: float
) -> None:
    context = session(tabs)
    page, other = tabs.open(counted_site.url, context), tabs.open(counted_site.url)
    for total in (5, 10):
        hide(page)
        until_streams(page, counted_site, 1)
        press(other, "Add", 5)
        expect(other.locator("#total")).to_have_text(str(total))
        expect(page.locator("#total")).to_have_text(str(total - 5))
        show(page)
        expect(page.locator("#total")).to_have_text(str(total), timeout=500 * slack)
        expect(page.locator("#connected")).to_have_text("yes")
    press(page, "Count")
    expect(page.locator("#count")).to_have_text("1")
