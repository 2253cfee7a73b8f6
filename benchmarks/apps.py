"""The package under load: one counter per session, one for everybody, and one board that many streams watch.

Each event exists once per kind of handler, so that a row of the table differs from the next in nothing else.
"""

import time
from typing import TYPE_CHECKING, Any

from pydantic import Field

from benchmarks.floor import COUNTING_ROW, PADDING, live, thousand_rows
from faststate_asgi import (
    FastStateMiddleware,
    Identity,
    Live,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
)

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import Receive, Scope, Send

SECRET_KEY = "benchmarks-only-0123456789abcdef-0123456789abcdef"


class SessionCounter(ReactiveState):
    """A counter of one browser session."""

    count: int = 0

    @event
    async def increment_async(self, amount: int = 1) -> None:
        """Add on the event loop."""
        self.count += amount

    @event(inline=True)
    def increment_inline(self, amount: int = 1) -> None:
        """Add on the event loop, without `async`."""
        self.count += amount

    @event
    def increment_thread(self, amount: int = 1) -> None:
        """Add in a worker thread."""
        self.count += amount


class GlobalCounter(ReactiveState):
    """A counter that everybody shares: one key on which all connections queue."""

    count: int = 0

    @event
    async def increment_async(self, amount: int = 1) -> None:
        """Add on the event loop."""
        self.count += amount

    @event(inline=True)
    def increment_inline(self, amount: int = 1) -> None:
        """Add on the event loop, without `async`."""
        self.count += amount

    @event
    def increment_thread(self, amount: int = 1) -> None:
        """Add in a worker thread."""
        self.count += amount


class UserCounter(ReactiveState):
    """A counter of one user."""

    count: int = 0

    @event
    async def increment(self, amount: int = 1) -> None:
        """Add for anybody who is known."""
        self.count += amount

    @event(permissions="count")
    async def increment_if_allowed(self, amount: int = 1) -> None:
        """Add for those who may."""
        self.count += amount


class Table(ReactiveState):
    """A counter beside 1 000 rows of one session."""

    count: int = 0
    rows: list[dict[str, Any]] = Field(default_factory=thousand_rows)

    @event
    async def increment_async(self, amount: int = 1) -> None:
        """Add beside the rows, on the event loop."""
        self.count += amount

    @event(inline=True)
    def increment_inline(self, amount: int = 1) -> None:
        """Add beside the rows, on the event loop, without `async`."""
        self.count += amount

    @event
    def increment_thread(self, amount: int = 1) -> None:
        """Add beside the rows, in a worker thread."""
        self.count += amount

    @event
    async def increment_row(self, amount: int = 1) -> None:
        """Add in the only row that counts: all rows are in the answer."""
        self.rows[COUNTING_ROW]["count"] += amount


class Board(ReactiveState):
    """One text that every stream watches."""

    text: str = ""

    @event
    async def publish(self) -> None:
        """Replace the text by one that carries the moment just before the commit."""
        self.text = f"~{time.monotonic_ns():020d} {PADDING.decode()}"


def known_user(connection: "HTTPConnection") -> Identity:
    """Know everybody by the port of their connection, and let them count."""
    assert connection.client is not None
    return Identity(str(connection.client.port), permissions={"count"})


async def site(scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Stand where a site would be: one page with a state of its session, 404 for all others."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    if scope["path"] == "/page":
        counter = await scope["faststate"].get(SessionCounter)
        body = f"<!doctype html><title>page</title>{Live(counter)}<p>{counter.count}</p>".encode()
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


registry = StateRegistry()
# The namespace keeps the two counters apart and is the same length for both.
registry.register(SessionCounter, StateConfig(scope=StateScope.SESSION, namespace="own"))
registry.register(GlobalCounter, StateConfig(scope=StateScope.GLOBAL, namespace="all"))
registry.register(Board, StateConfig(scope=StateScope.GLOBAL))
registry.register(Table, StateConfig(scope=StateScope.SESSION, namespace="table"))
registry.register(UserCounter, StateConfig(scope=StateScope.USER, namespace="user"))

app = FastStateMiddleware(site, registry=registry, secret_key=SECRET_KEY)
signed_in = FastStateMiddleware(site, registry=registry, secret_key=SECRET_KEY, authenticate=known_user)
