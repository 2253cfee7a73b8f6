"""What a page gives away, what markup of visitors may do in it, and who may frame it."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Tabs
from tests.browser.dom import hacked, press, wait_for_text

pytestmark = pytest.mark.browser


def test_no_signal_of_a_page_is_in_any_address(site: Any, tabs: Tabs) -> None:
    """Addresses stand in the logs of servers and proxies: a password that a signal holds would be in all of them."""
    page = tabs.open(site.url + "/answers")
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    press(page, "Bump")
    press(page, "Say 0")
    wait_for_text(page, "#updates", "@post('/x')")
    page.reload()
    expect(page.locator("#connected")).to_have_text("yes")
    assert page.evaluate("document.documentElement.outerHTML").count("canary-in-a-signal") == 1
    assert any("/sse?" in address for address in addresses)
    assert any("/events/Shared/bump" in address for address in addresses)
    assert not any("canary" in address for address in addresses)
    assert "GET /faststate/sse" in site.log
    assert "canary" not in site.log


def test_markup_of_a_visitor_is_dead_where_datastar_does_not_look(site: Any, tabs: Tabs) -> None:
    """A comment that keeps `data-init` runs code in the name of everybody who reads it."""
    page = tabs.open(site.url + "/answers")
    press(page, "Quote ignored")
    wait_for_text(page, "#quote", "theirs")
    page.locator("#quote p").click()
    press(page, "Several")
    wait_for_text(page, "#bold", "two")
    assert hacked(page) is None
    # Without the attribute it does run, so what comes before is no blank shot.
    other = tabs.open(site.url + "/answers")
    press(other, "Quote")
    other.wait_for_function("window.hacked === 'ran'")


def test_another_site_cannot_frame_a_page(serve: Any, site: Any, tabs: Tabs, datastar_bundle: Path) -> None:
    """Under a transparent frame a visitor would click what the attacker put below the pointer."""
    tabs.allow(r"frame-ancestors|ERR_BLOCKED_BY_RESPONSE")
    env = {"FASTSTATE_DATASTAR_URL": str(datastar_bundle), "FASTSTATE_DEBUG": "true"}
    sample = serve("sample_site.main:app", env=env)
    attacker = tabs.open(site.url + "/attack", is_live=False)
    attacker.evaluate(
        """(url) => new Promise(resolve => {
          const frame = document.createElement('iframe')
          frame.onload = resolve
          frame.src = url
          document.body.append(frame)
        })""",
        sample.url + "/",
    )
    assert attacker.frames[1].url.startswith("chrome-error://")
    own = tabs.open(sample.url + "/", is_live=False)
    answer = own.request.get(sample.url + "/")
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in policy
    assert "'unsafe-inline'" not in policy
    assert re.search(r"script-src 'self' 'unsafe-eval'(;|$)", policy)
