"""A site whose clients leave too early; WRAPPED=1 puts a middleware of the kind around it that hides a client's leaving."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from faststate_asgi import FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, StateScope, event
from tests.hardening.wrapping import SECRET

STEPS = 5
STEP_S = 0.03
happened = Counter[str]()


class Note(SQLModel, table=True):
    """A row of the site's own."""

    id: int | None = Field(default=None, primary_key=True)


class Pair(ReactiveState):
    """Two counts and a row that belong together."""

    first: int = 0
    second: int = 0

    @event
    async def add(self, session: AsyncSession) -> None:
        """Change one, let time pass, then change the other."""
        self.first += 1
        session.add(Note())
        await session.flush()
        await asyncio.sleep(0.004)
        self.second += 1


class Walk(ReactiveState):
    """What generators do step by step; each record has its own."""

    step: int = 0

    @event
    async def finish(self) -> AsyncIterator[None]:
        """Go through all steps, whoever looks on."""
        happened["begun"] += 1
        try:
            for _ in range(STEPS):
                self.step += 1
                yield
                await asyncio.sleep(STEP_S)
            happened["finished"] += 1
        finally:
            happened["finalised"] += 1

    @event(on_disconnect="stop")
    async def stop(self) -> AsyncIterator[None]:
        """Walk on for as long as somebody looks on."""
        happened["begun"] += 1
        try:
            for _ in range(10_000):
                self.step += 1
                yield
                await asyncio.sleep(STEP_S)
            happened["finished"] += 1
        finally:
            happened["finalised"] += 1


async def show_pair(request: Request) -> JSONResponse:
    """Show what the pair holds."""
    state = await Pair.aget(request)
    return JSONResponse([state.first, state.second])


async def show_happened(request: Request) -> JSONResponse:
    """Show what generators did."""
    return JSONResponse({name: happened[name] for name in ("begun", "finished", "finalised")})


async def show_step(request: Request) -> JSONResponse:
    """Show how far a record has come."""
    context = request.scope["faststate"]
    return JSONResponse((await context.get(Walk, record_id=request.path_params["number"])).step)


class Passing(BaseHTTPMiddleware):
    """Passes everything on through a task and a queue of its own."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        """Pass it on."""
        return await call_next(request)


registry = StateRegistry()
registry.register(Pair, StateConfig(scope=StateScope.GLOBAL, namespace=True))
registry.register(Walk, StateConfig(scope=StateScope.RECORD, public=True, namespace=True))
wrapped = FastStateMiddleware(
    Starlette(
        routes=[
            Route("/pair", show_pair),
            Route("/happened", show_happened),
            Route("/step/{number}", show_step),
        ]
    ),
    registry=registry,
    secret_key=SECRET,
    debug=True,
)
app: Any = Passing(wrapped) if os.environ.get("WRAPPED") else wrapped
