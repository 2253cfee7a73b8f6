"""A site for several processes on one store: FASTSTATE_STORE says where; the states show every way of sharing."""

import asyncio
import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import (
    FastStateMiddleware,
    ReactiveState,
    RequestContext,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
)
from tests.hardening.wrapping import SECRET

TTL_S = float(os.environ.get("TTL_S", "1"))


class Counter(ReactiveState):
    """One counter for everybody; reading, waiting and writing would lose updates without turns."""

    count: int = 0

    @event
    async def bump(self) -> None:
        """Add one."""
        before = self.count
        await asyncio.sleep(0)
        self.count = before + 1

    @event(timeout=60)
    async def hold(self, seconds: float) -> None:
        """Keep the turn for a while, then add one."""
        before = self.count
        await asyncio.sleep(seconds)
        self.count = before + 1


class Own(ReactiveState):
    """A counter for each session, and what a login may do with it."""

    count: int = 0

    @event
    async def bump(self) -> None:
        """Add one."""
        self.count += 1

    @event
    async def log_in(self, user: str, context: RequestContext) -> None:
        """Log somebody in, whoever it is."""
        await context.login(user)

    @event
    async def log_out(self, context: RequestContext) -> None:
        """Log out."""
        await context.logout()


class Mine(ReactiveState):
    """What only a user sees."""

    note: str = ""

    @event
    async def write(self, note: str) -> None:
        """Keep a note."""
        self.note = note


class Brief(ReactiveState):
    """Goes away a moment after its last change."""

    word: str = ""

    @event
    async def say(self, word: str) -> None:
        """Set the word."""
        self.word = word


class Kept(Brief):
    """The same, but durable: its time to live deletes nothing."""


class Expiring(Brief):
    """The same, durable, and deleted all the same."""


class Item(ReactiveState):
    """Records, one of which may be spoilt."""

    count: int = 0

    @event
    async def bump(self) -> None:
        """Add one."""
        self.count += 1

    @event(timeout=60)
    async def hold(self, seconds: float) -> None:
        """Keep the turn for a while, then add one."""
        before = self.count
        await asyncio.sleep(seconds)
        self.count = before + 1


async def page(request: Request) -> PlainTextResponse:
    """Show a session's count, which gives a new visitor a session."""
    state = await Own.aget(request)
    return PlainTextResponse(f"{os.getpid()} {state.count}")


async def words(request: Request) -> PlainTextResponse:
    """Show what the three brief states hold."""
    states = [await cls.aget(request) for cls in (Brief, Kept, Expiring)]
    return PlainTextResponse(",".join(state.word for state in states))


async def forget(request: Request) -> PlainTextResponse:
    """Clear the states of the asking session."""
    context: RequestContext = request.scope["faststate"]
    await context.resolve()
    assert context.session_id is not None
    return PlainTextResponse(str(await context.engine.clear_session_states(context.session_id)))


async def move(request: Request) -> PlainTextResponse:
    """Move one from an item to another; an item may owe."""
    source, target = request.query_params["source"], request.query_params["target"]
    context: RequestContext = request.scope["faststate"]
    async with context.transaction((Item, source), (Item, target)) as (giver, taker):
        giver.count -= 1
        await asyncio.sleep(0)
        taker.count += 1
    return PlainTextResponse("moved")


async def add_up(request: Request) -> PlainTextResponse:
    """Show what two items have together."""
    context: RequestContext = request.scope["faststate"]
    items = [await context.get(Item, record_id=request.query_params[name]) for name in ("first", "second")]
    return PlainTextResponse(str(sum(item.count for item in items)))


async def lag(request: Request) -> PlainTextResponse:
    """Show by how many seconds this process's loop was late at most, during the seconds asked for."""
    loop = asyncio.get_running_loop()
    end, most = loop.time() + float(request.query_params["seconds"]), 0.0
    while (before := loop.time()) < end:
        await asyncio.sleep(0.005)
        most = max(most, loop.time() - before - 0.005)
    return PlainTextResponse(str(most))


async def tasks(request: Request) -> PlainTextResponse:
    """Show how many tasks this process has."""
    return PlainTextResponse(str(len(asyncio.all_tasks())))


def make_registry() -> StateRegistry:
    """Return the states of the site; scripts on the same store use them too."""
    registry = StateRegistry()
    everybody = StateScope.GLOBAL
    registry.register(Counter, StateConfig(scope=everybody, namespace=True))
    registry.register(Own, StateConfig(namespace=True))
    registry.register(Mine, StateConfig(scope=StateScope.USER, namespace=True))
    registry.register(Brief, StateConfig(scope=everybody, namespace=True, ttl=TTL_S))
    registry.register(Kept, StateConfig(scope=everybody, namespace=True, ttl=TTL_S, auto_persist=True))
    registry.register(Expiring, StateConfig(scope=everybody, namespace=True, ttl=TTL_S, auto_persist=True, expire=True))
    registry.register(Item, StateConfig(scope=StateScope.RECORD, namespace=True, public=True))
    return registry


app = FastStateMiddleware(
    Starlette(
        routes=[
            Route("/", page),
            Route("/words", words),
            Route("/forget", forget),
            Route("/move", move, methods=["POST"]),
            Route("/sum", add_up),
            Route("/lag", lag),
            Route("/tasks", tasks),
        ],
    ),
    registry=make_registry(),
    secret_key=SECRET,
    max_streams_per_session=10_000,
    debug=True,
)
