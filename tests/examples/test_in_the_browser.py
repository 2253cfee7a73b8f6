"""The same attributes in a real browser with the real Datastar client."""

from typing import Any

import pytest
from playwright.sync_api import Browser, expect

pytestmark = pytest.mark.browser


def test_spans_show_the_state_and_buttons_change_it(serve: Any, browser: Browser, datastar_bundle: Any) -> None:
    server = serve("tests.examples.counter_site:app", env={"FASTSTATE_DATASTAR_URL": str(datastar_bundle)})
    with browser.new_context() as context:
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url + "/")
        expect(page.locator("#count")).to_have_text("0")
        expect(page.locator("#message")).to_have_text("Welcome to FastState!")
        page.get_by_role("button", name="Increment").click()
        expect(page.locator("#count")).to_have_text("1")
        page.get_by_role("button", name="Add 5").click()
        expect(page.locator("#count")).to_have_text("6")
        page.get_by_role("button", name="Reset").click()
        expect(page.locator("#message")).to_have_text("Counter reset!")
        expect(page.locator("#count")).to_have_text("0")
        assert errors == []
