"""Sites whose middlewares stand between FastState and the server, as people write them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import FastState, FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, StateScope, event
from tests.hardening.wrapping import SECRET


class Beat(ReactiveState):
    """Counts."""

    beats: int = 0
    text: str = ""

    @event
    def beat(self) -> None:
        self.beats += 1

    @event(inline=True)
    def fill(self, text: str) -> None:
        """Make the state large, differently each time."""
        self.beats += 1
        self.text = f"{self.beats}{text}"


registry = StateRegistry()
registry.register(Beat, StateConfig(scope=StateScope.GLOBAL))
engine = FastState(registry=registry, secret_key=SECRET)


async def streams(request: Request) -> PlainTextResponse:
    """Say how many streams are open."""
    return PlainTextResponse(str(engine.hub.stream_count))


async def passed_on(request: Request, call_next: Any) -> Any:
    """Do nothing, in the way of `@app.middleware("http")`."""
    return await call_next(request)


def with_send(app: Any, around: Callable[[Any, Any], Awaitable[None]]) -> Any:
    """Wrap an app so that each message of a response goes through `around(send, message)`."""

    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        async def wrapped_send(message: Any) -> None:
            await around(send, message)

        await app(scope, receive, wrapped_send if scope["type"] == "http" else send)

    return wrapper


async def in_time(send: Any, message: Any) -> None:
    async with asyncio.timeout(60):
        await send(message)


async def in_scope(send: Any, message: Any) -> None:
    with anyio.fail_after(60):
        await send(message)


ROUTES = [Route("/streams", streams)]
base_http = BaseHTTPMiddleware(FastStateMiddleware(Starlette(routes=ROUTES), engine), passed_on)
fastapi_inside = FastAPI(routes=ROUTES)
fastapi_inside.add_middleware(FastStateMiddleware, faststate=engine)
fastapi_inside.middleware("http")(passed_on)
with_timeout = with_send(FastStateMiddleware(Starlette(routes=ROUTES), engine), in_time)
with_scope = with_send(FastStateMiddleware(Starlette(routes=ROUTES), engine), in_scope)
starlette_inside = Starlette(routes=ROUTES, middleware=[Middleware(FastStateMiddleware, faststate=engine)])
