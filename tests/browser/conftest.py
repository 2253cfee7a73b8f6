"""Tabs whose consoles are watched: a test fails if one says anything that was not announced."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, expect

from tests.browser.proxy import Proxy

SITE = "tests.apps.browser_site:app"
WAIT_MS = 10_000
# What Chromium and Datastar print when a connection fails; Datastar announces each of its retries so.
CONNECTION_LOST = (
    r"ERR_CONNECTION_(REFUSED|RESET)|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE_CHUNKED_ENCODING"
    r"|^error: (network error|Failed to fetch|TypeError: .*) \(|Datastar failed to reach .* retrying in"
)


@dataclass  # without slots: Playwright keeps its wrappers of the handlers on the instance
class Tabs:
    """Opens tabs and remembers what their consoles said; lives as long as one test."""

    browser: Browser
    wait_ms: float
    said: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def session(self, **options: Any) -> BrowserContext:
        """Returns a new browser session with cookies of its own."""
        context = self.browser.new_context(**options)
        context.set_default_timeout(self.wait_ms)
        self.contexts.append(context)
        return context

    def open(self, url: str, context: BrowserContext | None = None, *, is_live: bool = True) -> Page:
        """Returns a tab that shows the address, with its stream open unless it has none."""
        page = (context or self.session()).new_page()
        page.on("console", self._console)
        page.on("pageerror", self._page_error)
        page.goto(url)
        if is_live:
            expect(page.locator("#connected")).to_have_text("yes")
        return page

    def allow(self, pattern: str) -> None:
        """Announces something that a console will say."""
        self.allowed.append(pattern)

    def unexpected(self) -> list[str]:
        """Returns what the consoles said that nobody announced."""
        return [text for text in self.said if not any(re.search(pattern, text) for pattern in self.allowed)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.said.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _page_error(self, error: Error) -> None:
        self.said.append(f"page error: {error}")


@pytest.fixture
def tabs(browser: Browser, slack: float) -> Iterator[Tabs]:
    """Tabs in the real browser; in the end nothing unexpected stands in any console."""
    expect.set_options(timeout=WAIT_MS * slack)
    opened = Tabs(browser, WAIT_MS * slack)
    yield opened
    unexpected = opened.unexpected()
    for context in opened.contexts:
        context.close()
    assert unexpected == [], "\n".join(unexpected)


@pytest.fixture
def site(serve: Any, datastar_bundle: Path) -> Any:
    """The site with one of everything, under uvicorn."""
    return serve(SITE, env={"FASTSTATE_DATASTAR_URL": str(datastar_bundle)})


@pytest.fixture
def start_proxy() -> Iterator[Callable[[int], Proxy]]:
    """Starts proxies in front of servers; all are closed when the test ends."""
    proxies: list[Proxy] = []

    def start(upstream_port: int) -> Proxy:
        proxies.append(Proxy(upstream_port))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()
