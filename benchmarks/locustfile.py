"""A visitor of the sample site for locust: browses its pages, clicks its events and watches a live stream.

    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000 --users 50 --run-time 30s --headless

Nothing of the site is written down here: links, actions and the stream's address are read from its pages, as
a browser does. An answer that carries an error for the page is a failure, although its status is 200.
"""

# Locust is an extra: without it its classes and decorators are unknown to the type checker, and still used.
# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

import html
import json
import random
import re
import secrets
from urllib.parse import urljoin, urlsplit

import gevent
from locust import HttpUser, between, task
from locust.clients import ResponseContextManager

LINK = re.compile(r"""<a\b[^>]*?\bhref=["'](/[^"'#]*)""", re.IGNORECASE)
ACTION = re.compile(r"@post\('([^']*/events/[^']+)'(?:,\s*\{payload:\s*(\{[^{}]*\}))?")
STREAM = re.compile(r"@get\('([^']*/sse\?states=[^']+)'")
ERROR = re.compile(r'"error"\s*:\s*\{')
# The session's counter is the home page's `change`.
COUNTERS = re.compile(r"counter|/change$", re.IGNORECASE)
CHATS = re.compile(r"chat|message", re.IGNORECASE)
NOT_BROWSED = re.compile(r"logout|/faststate/")
PAGE_HEADERS = {
    "Accept": "text/html,application/xhtml+xml",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Dest": "document",
}
WATCH_S = (5.0, 15.0)


class Visitor(HttpUser):
    """One browser tab with its own cookies; lives as long as locust lets it."""

    wait_time = between(0.5, 2.0)

    def on_start(self) -> None:
        """Open the first page and learn the site from it."""
        self.pages: list[str] = ["/"]
        self.actions: dict[str, str] = {}
        self.streams: list[str] = []
        self.browse("/")

    @task(3)
    def read_a_page(self) -> None:
        """Follow a link that some page showed."""
        self.browse(random.choice(self.pages))

    @task(6)
    def click_a_counter(self) -> None:
        """Click a session's or everybody's counter."""
        self.click_one_of(COUNTERS, {})

    @task(2)
    def say_something(self) -> None:
        """Send a line to the chat."""
        words = f"hello {secrets.token_hex(4)}"
        self.click_one_of(CHATS, {"name": "Locust", "author": "Locust", "message": words, "text": words})

    @task(1)
    def watch(self) -> None:
        """Hold a page's live stream open for some seconds."""
        if self.streams:
            self.hold_stream(random.choice(self.streams), random.uniform(*WATCH_S))

    def browse(self, path: str) -> None:
        """Get one page and keep the links, actions and streams in it."""
        with self.client.get(path, headers=PAGE_HEADERS, catch_response=True) as answer:
            # A page for somebody who is logged in answers so by design.
            if answer.status_code in (401, 403):
                answer.success()
            self.learn(html.unescape(answer.text or ""))

    def learn(self, page: str) -> None:
        """Remember what this page offers."""
        links = [link for link in LINK.findall(page) if not NOT_BROWSED.search(link)]
        self.pages = sorted({*self.pages, *links})
        self.streams = sorted({*self.streams, *STREAM.findall(page)})
        for path, payload in ACTION.findall(page):
            self.actions[path] = payload or self.actions.get(path, "")

    def click_one_of(self, wanted: re.Pattern[str], arguments: dict[str, str]) -> None:
        """Send one of the known actions whose path fits, if a page has shown one."""
        fitting = [path for path in self.actions if wanted.search(path)]
        if fitting:
            path = random.choice(fitting)
            self.post_event(path, {**payload_of(self.actions[path]), **arguments})

    def post_event(self, path: str, payload: dict[str, object]) -> None:
        """Send one event as Datastar does, and check that the page would get no error."""
        headers = self.action_headers()
        with self.client.post(path, json=payload, headers=headers, catch_response=True) as answer:
            if answer.status_code in (200, 204) and ERROR.search(answer.text or ""):
                answer.failure(f"an error for the page: {(answer.text or '')[:200]}")

    def action_headers(self) -> dict[str, str]:
        """Return what a browser sends with a Datastar action, with a fresh idempotency key."""
        site = urlsplit(urljoin(self.host or "", "/"))
        return {
            "Accept": "text/event-stream, text/html, application/json",
            "Datastar-Request": "true",
            "FastState-Live": "undefined",
            "Idempotency-Key": secrets.token_hex(16),
            "Origin": f"{site.scheme}://{site.netloc}",
            "Sec-Fetch-Site": "same-origin",
        }

    def hold_stream(self, address: str, seconds: float) -> None:
        """Read a stream for this long; it must bring at least one frame and not end before."""
        headers = {"Accept": "text/event-stream", "Sec-Fetch-Site": "same-origin", "Datastar-Request": "true"}
        with self.client.get(address, headers=headers, stream=True, catch_response=True, name="stream") as answer:
            frames = count_frames(answer, seconds)
            if frames == 0:
                answer.failure("the stream brought no frame")
            answer.close()


def count_frames(answer: ResponseContextManager, seconds: float) -> int:
    """Count the frames that a stream brings within this time."""
    frames = 0
    with gevent.Timeout(seconds, False):
        for line in answer.iter_lines():
            frames += line.startswith(b"event:")
    return frames


def payload_of(text: str) -> dict[str, object]:
    """Return an action's payload, or nothing where it holds expressions that only a browser can evaluate."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
