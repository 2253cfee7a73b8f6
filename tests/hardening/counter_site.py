"""A site for real servers: counters of every kind of handler, a slow event, and a lifespan that leaves a mark."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from faststate_asgi import (
    FastState,
    FastStateMiddleware,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
    faststate_app,
)
from tests.hardening.wrapping import SECRET


class Tally(ReactiveState):
    """Counts in every way in which a handler can be run; each way would lose updates without turns."""

    total: int = 0
    text: str = ""

    @event
    async def add_async(self) -> None:
        """Read, wait, write."""
        before = self.total
        await asyncio.sleep(0)
        self.total = before + 1

    @event
    def add_thread(self) -> None:
        """Read, let other threads run, write."""
        before = self.total
        time.sleep(0)
        self.total = before + 1

    @event(inline=True)
    def add_inline(self) -> None:
        """Count on the event loop."""
        self.total += 1

    @event(inline=True)
    def fill(self, text: str) -> None:
        """Make the state large, differently each time."""
        self.total += 1
        self.text = f"{self.total}{text}"

    @event
    async def add_slowly(self) -> None:
        """Count after a while, told by a file that it has begun."""
        Path(os.environ["MARKS"], "running").touch()  # noqa: ASYNC240
        await asyncio.sleep(float(os.environ.get("SLOW_S", "1")))
        self.total += 1
        Path(os.environ["MARKS"], "finished").touch()  # noqa: ASYNC240


class OwnTally(Tally):
    """The same for one session."""


async def page(request: Request) -> PlainTextResponse:
    """Show a session's tally, which gives a new visitor a session."""
    state = await OwnTally.aget(request)
    return PlainTextResponse(str(state.total))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Leave a mark when the inner app stops in order."""
    yield
    Path(os.environ["MARKS"], "stopped").write_text("in order")  # noqa: ASYNC240


registry = StateRegistry()
registry.register(Tally, StateConfig(scope=StateScope.GLOBAL, namespace=True))
registry.register(OwnTally, StateConfig(namespace=True))
app = FastStateMiddleware(
    Starlette(routes=[Route("/", page)], lifespan=lifespan),
    registry=registry,
    secret_key=SECRET,
    max_streams_per_session=1000,
)

# As part of another app it gets no lifespan.
mounted = Starlette(routes=[Mount("/sub", app=app)])
engine = FastState(registry=registry, secret_key=SECRET, serve=False)


@asynccontextmanager
async def own_lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the engine without the middleware."""
    async with engine:
        yield


by_hand = Starlette(routes=[Mount("/faststate", app=faststate_app(engine))], lifespan=own_lifespan)
