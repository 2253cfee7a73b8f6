"""What the example tests share: a FastHTML app, its wrapping, a reader of pages and a finger for buttons."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl

import pytest
from fasthtml.common import fast_app

from faststate_asgi import FastStateMiddleware, Identity, StateRegistry
from faststate_asgi.testing import FastStateClient

SECRET = "only-for-example-tests-" + "x" * 32
VOID_TAGS = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
)
ACTION = re.compile(r"@(?P<verb>\w+)\('/faststate/events/(?P<path>[^']+)', \{payload: ")


@dataclass
class Element:
    """One element of a page: its tag, its attributes and all text inside."""

    tag: str
    attributes: dict[str, str]
    content: str = ""

    @property
    def text(self) -> str:
        """The text as a reader sees it: white space counts as one space."""
        return " ".join(self.content.split())

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]


@dataclass
class Page(HTMLParser):
    """A parsed page: its elements in document order, its text as people read it, and its signals."""

    html: str
    elements: list[Element] = field(default_factory=list)
    content: str = ""
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember the element, and that it is open unless it cannot have content."""
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID_TAGS:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element of that tag and what was left open inside it."""
        if any(element.tag == tag for element in self._open):
            while self._open.pop().tag != tag:
                pass

    def handle_data(self, data: str) -> None:
        """Give text to all elements around it; scripts and styles are not read by people."""
        for element in self._open:
            element.content += data
        if not any(element.tag in ("script", "style", "title") for element in self._open):
            self.content += data

    @property
    def text(self) -> str:
        """All text as a reader sees it."""
        return " ".join(self.content.split())

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return the elements of that tag whose attributes have these values."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [e for e in self.elements if e.tag == tag and wanted.items() <= e.attributes.items()]

    def one(self, tag: str, **attributes: str) -> Element:
        """Return the only element of that tag with these attributes."""
        (element,) = self.all(tag, **attributes)
        return element

    def button(self, label: str) -> Element:
        """Return the only button with that label."""
        (element,) = (e for e in self.all("button") if e.text == label)
        return element

    @property
    def signals(self) -> dict[str, Any]:
        """The signals that the page seeds, without the framework's own."""
        merged: dict[str, Any] = {}
        for element in self.elements:
            for name, value in element.attributes.items():
                if name.startswith("data-signals"):
                    _merge(merged, json.loads(value))
        merged.pop("_faststate", None)
        return merged


def _merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    """Merge objects into objects, replace everything else."""
    for name, value in patch.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


@pytest.fixture
def registry() -> StateRegistry:
    """A registry of the test's own."""
    return StateRegistry()


@pytest.fixture
def new_app() -> Callable[..., Any]:
    """Make ``(app, rt)`` of FastHTML without a key file."""

    def make(**options: Any) -> Any:
        return fast_app(secret_key=SECRET, pico=False, **options)

    return make


@pytest.fixture
def wrap(registry: StateRegistry) -> Callable[..., FastStateMiddleware]:
    """Wrap an app with the test's registry."""

    def make(app: Any, **settings: Any) -> FastStateMiddleware:
        return FastStateMiddleware(app, **{"registry": registry, "secret_key": SECRET} | settings)

    return make


@pytest.fixture
def read_page() -> Callable[[Any], Page]:
    """Parse the page of a response, which has to be a 200."""

    def read(response: Any) -> Page:
        assert response.status == 200, response.text
        return Page(response.text)

    return read


@pytest.fixture
def read_markup() -> Callable[[str], Page]:
    """Parse a piece of markup."""
    return Page


@pytest.fixture
def press() -> Callable[..., Any]:
    """Do what a browser does with an action of a page: send its payload to its address."""

    async def run(client: Any, action: str, **options: Any) -> Any:
        match = ACTION.match(action)
        assert match is not None, action
        payload, _ = json.JSONDecoder().raw_decode(action, match.end())
        path, _, query = match["path"].partition("?")
        return await client.call(path, payload, ids=dict(parse_qsl(query)), **options)

    return run


@pytest.fixture
def patches() -> Callable[[Any], list[dict[str, Any]]]:
    """Read the signal patches of an answer, one by one."""

    def read(answer: Any) -> list[dict[str, Any]]:
        return [frame.patch for frame in answer.frames if frame.patch is not None]

    return read


@pytest.fixture
def header_identity() -> Callable[[Any], Identity | None]:
    """An ``authenticate`` callable that believes ``x-user``: these tests are not about who asks."""

    def authenticate(connection: Any) -> Identity | None:
        headers = connection.headers
        if "x-user" not in headers:
            return None
        permissions = tuple(headers.get("x-permissions", "").split())
        return Identity(headers["x-user"], permissions=permissions, roles=tuple(headers.get("x-roles", "").split()))

    return authenticate


@pytest.fixture
def as_user() -> Callable[..., dict[str, str]]:
    """The headers that ``header_identity`` believes."""

    def headers(name: str, *, permissions: str = "", roles: str = "") -> dict[str, str]:
        return {"x-user": name, "x-permissions": permissions, "x-roles": roles}

    return headers


@pytest.fixture
def browsers() -> Callable[..., Any]:
    """Open several browsers, each with its own cookies, on one app."""

    @asynccontextmanager
    async def open_all(app: Any, count: int) -> AsyncIterator[list[FastStateClient]]:
        async with FastStateClient(app) as first:
            yield [first, *(first.another() for _ in range(count - 1))]

    return open_all
