"""The package under load: one counter per session, one for everybody, and one board that many streams watch.

Each event exists once per kind of handler, so that a row of the table differs from the next in nothing else.
"""

import time
from typing import TYPE_CHECKING

from benchmarks.floor import PADDING, live
from faststate_asgi import FastStateMiddleware, Live, ReactiveState, StateConfig, StateRegistry, StateScope, event

if TYPE_CHECKING:
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


class Board(ReactiveState):
    """One text that every stream watches."""

    text: str = ""

    @event
    async def publish(self) -> None:
        """Replace the text by one that carries the moment just before the commit."""
        self.text = f"~{time.monotonic_ns():020d} {PADDING.decode()}"


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

app = FastStateMiddleware(site, registry=registry, secret_key=SECRET_KEY)
