"""Streams that end or break: the page notices, comes back by itself, and shows what is true."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import CONNECTION_LOST, SITE, Tabs
from tests.browser.dom import press, seen, watch_text
from tests.browser.proxy import Proxy
from tests.services import free_port

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_page_comes_back_by_itself_when_the_server_is_started_again(
    serve: Any, tabs: Tabs, datastar_bundle: Path, is_killed: bool
) -> None:
    tabs.allow(CONNECTION_LOST)
    port, env = free_port(), {"FASTSTATE_DATASTAR_URL": str(datastar_bundle)}
    server = serve(SITE, env=env, port=port)
    page, odd = tabs.open(server.url), tabs.open(server.url + "/odd")
    watch_text(page, "#connected")
    press(page, "Add", 3)
    press(odd, "Apple")
    expect(page.locator("#total")).to_have_text("3")
    expect(odd.locator("#apple")).to_have_text("<red>")
    if is_killed:
        server.kill()
    else:
        server.terminate()
    for one in (page, odd):
        expect(one.locator("#connected")).to_have_text("no")
    server.wait()
    serve(SITE, env=env, port=port)
    for one in (page, odd):
        expect(one.locator("#connected")).to_have_text("yes", timeout=30_000)
    assert seen(page) == ["yes", "no", "yes"]
    # All was in the old process's memory, so the pages show what is stored now: nothing.
    expect(page.locator("#total")).to_have_text("0")
    expect(odd.locator("#apple")).to_have_text("<>")
    press(page, "Add")
    expect(page.locator("#total")).to_have_text("1")


def test_r22_a_page_whose_server_was_gone_for_ten_minutes_comes_back_by_itself(
    serve: Any, tabs: Tabs, datastar_bundle: Path
) -> None:
    """The ten minutes pass by the page's own clock, in which Datastar by itself would have given up after three."""
    tabs.allow(CONNECTION_LOST)
    port, env = free_port(), {"FASTSTATE_DATASTAR_URL": str(datastar_bundle)}
    server = serve(SITE, env=env, port=port)
    context = tabs.session()
    context.clock.install()
    page = tabs.open(server.url, context)
    server.kill()
    expect(page.locator("#connected")).to_have_text("no")
    server.wait()
    for _ in range(20):
        with page.expect_event("requestfailed"):
            page.clock.run_for(31_000)  # no pause between two attempts is longer
    serve(SITE, env=env, port=port)
    page.clock.run_for(31_000)
    expect(page.locator("#connected")).to_have_text("yes")
    press(page, "Add")
    expect(page.locator("#total")).to_have_text("1")


def test_a_stream_that_the_server_ends_for_its_age_is_opened_again_and_again(
    serve: Any, tabs: Tabs, datastar_bundle: Path
) -> None:
    env = {"FASTSTATE_DATASTAR_URL": str(datastar_bundle), "FASTSTATE_MAX_STREAM_AGE": "1"}
    server = serve(SITE, env=env)
    page, other = tabs.open(server.url), tabs.open(server.url)
    watch_text(page, "#connected")
    for total in range(1, 5):
        reopened = "(count) => window.seen.filter(text => text === 'yes').length > count"
        page.wait_for_function(reopened, arg=total)
        press(other, "Add")
        expect(page.locator("#total")).to_have_text(str(total))
        expect(other.locator("#total")).to_have_text(str(total))
    texts = seen(page)
    first = texts.index("yes")  # its first second may have been over before it was watched
    assert texts[first : first + 4] == ["yes", "no", "yes", "no"]


def test_changes_during_a_broken_stream_are_there_after_it(
    site: Any, tabs: Tabs, start_proxy: Callable[[int], Proxy]
) -> None:
    tabs.allow(CONNECTION_LOST)
    proxy = start_proxy(site.port)
    page, other = tabs.open(proxy.url), tabs.open(site.url)
    proxy.hold_streams()
    proxy.cut_streams()
    expect(page.locator("#connected")).to_have_text("no")
    press(other, "Add", 5)
    expect(other.locator("#total")).to_have_text("5")
    expect(page.locator("#total")).to_have_text("0")
    # While the stream is down, a click's own answer brings what it changed.
    press(page, "Count")
    expect(page.locator("#count")).to_have_text("1")
    proxy.hold_streams(False)
    expect(page.locator("#connected")).to_have_text("yes", timeout=30_000)
    expect(page.locator("#total")).to_have_text("5")
    expect(page.locator("#count")).to_have_text("1")
