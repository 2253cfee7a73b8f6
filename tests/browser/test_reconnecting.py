"""Streams that end or break: the page notices, comes back by itself, and shows what is true."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import SITE, Tabs
from tests.browser.dom import press, seen, watch_text
from tests.browser.proxy import Proxy
from tests.services import free_port

pytestmark = pytest.mark.browser
CUT = r"ERR_CONNECTION_(REFUSED|RESET)|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE_CHUNKED_ENCODING"


@pytest.fixture
def database_env(tmp_path: Path, datastar_bundle: Path) -> dict[str, str]:
    """Settings of a site whose global state outlives its process."""
    return {
        "FASTSTATE_DATASTAR_URL": str(datastar_bundle),
        "FASTSTATE_STORE": f"sqlite+aiosqlite:///{tmp_path}/state.db",
        "FASTSTATE_DEBUG": "true",
    }


def test_a_page_comes_back_by_itself_when_the_server_is_started_again(
    serve: Any, tabs: Tabs, database_env: dict[str, str]
) -> None:
    tabs.allow(CUT)
    port = free_port()
    server = serve(SITE, env=database_env, port=port)
    page = tabs.open(server.url)
    watch_text(page, "#connected")
    press(page, "Count", 2)
    press(page, "Add", 3)
    expect(page.locator("#count")).to_have_text("2")
    expect(page.locator("#total")).to_have_text("3")
    server.terminate()
    expect(page.locator("#connected")).to_have_text("no")
    server.wait()
    serve(SITE, env=database_env, port=port)
    expect(page.locator("#connected")).to_have_text("yes", timeout=30_000)
    assert seen(page) == ["yes", "no", "yes"]
    expect(page.locator("#count")).to_have_text("2")
    expect(page.locator("#total")).to_have_text("3")
    press(page, "Add")
    expect(page.locator("#total")).to_have_text("4")


def test_a_page_of_a_killed_server_shows_what_is_stored_after_it_is_back(
    serve: Any, tabs: Tabs, datastar_bundle: Path
) -> None:
    tabs.allow(CUT)
    port, env = free_port(), {"FASTSTATE_DATASTAR_URL": str(datastar_bundle)}
    server = serve(SITE, env=env, port=port)
    page, session_page = tabs.open(server.url), tabs.open(server.url + "/odd")
    press(page, "Add", 3)
    expect(page.locator("#total")).to_have_text("3")
    press(session_page, "Apple")
    expect(session_page.locator("#apple")).to_have_text("<red>")
    server.kill()
    server.wait()
    for one in (page, session_page):
        expect(one.locator("#connected")).to_have_text("no")
    serve(SITE, env=env, port=port)  # everything was in its memory
    for one in (page, session_page):
        expect(one.locator("#connected")).to_have_text("yes", timeout=30_000)
    expect(page.locator("#total")).to_have_text("0")
    expect(session_page.locator("#apple")).to_have_text("<>")
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
    assert texts[:4] == ["yes", "no", "yes", "no"]


def test_changes_during_a_broken_stream_are_there_after_it(
    site: Any, tabs: Tabs, start_proxy: Callable[[int], Proxy]
) -> None:
    tabs.allow(CUT)
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


def test_a_page_whose_session_is_gone_says_so_and_stops_asking(site: Any, tabs: Tabs) -> None:
    session = tabs.session()
    page = tabs.open(site.url, session)
    press(page, "Count")
    expect(page.locator("#count")).to_have_text("1")
    session.clear_cookies()
    os.kill(site.pid, 0)  # it is the session that is gone, not the server
    page.evaluate("() => { window.answers = 0; document.addEventListener('datastar-fetch', () => window.answers++) }")
    refused = tabs.open(site.url, is_live=False, context=session)
    session.clear_cookies()
    refused.close()
    press(page, "Count")  # begins a new session, at one
    expect(page.locator("#count")).to_have_text("1")
