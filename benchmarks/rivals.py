"""The same counter written with other packages, none of which promises what an event here promises.

They keep a number in the process's memory: no session check, no turn, no idempotency: their figures flatter.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from datastar_py.fasthtml import DatastarResponse as FastHTMLDatastarResponse
from datastar_py.starlette import DatastarResponse, ServerSentEventGenerator
from fasthtml.common import FastHTML
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser, requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.floor import COUNTING_ROW, PADDING, thousand_rows

SECRET_KEY = "benchmarks-only-0123456789abcdef-0123456789abcdef"

counts: dict[str, int] = {}
tables: dict[str, list[dict[str, Any]]] = {}


async def increment(request: Request) -> DatastarResponse:
    """Add to the counter of this cookie and answer the new value."""
    amount = (await request.json())["amount"]
    session = request.cookies["faststate_session"]
    counts[session] = counts.get(session, 0) + amount
    return DatastarResponse(ServerSentEventGenerator.patch_signals({"count": counts[session]}))


async def increment_in_fasthtml(req: Request, amount: int) -> FastHTMLDatastarResponse:
    """Do the same as a FastHTML handler, which reads `amount` from the body by itself."""
    session = req.cookies["faststate_session"]
    counts[session] = counts.get(session, 0) + amount
    return FastHTMLDatastarResponse(ServerSentEventGenerator.patch_signals({"count": counts[session]}))


def rows_with(session: str, amount: int) -> dict[str, Any]:
    """Add in one of this cookie's 1 000 rows and return all of them, as an array travels whole."""
    rows = tables.setdefault(session, thousand_rows())
    rows[COUNTING_ROW]["count"] += amount
    return {"rows": rows}


async def increment_row(request: Request) -> DatastarResponse:
    """Add in one of 1 000 rows."""
    amount = (await request.json())["amount"]
    signals = rows_with(request.cookies["faststate_session"], amount)
    return DatastarResponse(ServerSentEventGenerator.patch_signals(signals))


async def increment_row_in_fasthtml(req: Request, amount: int) -> FastHTMLDatastarResponse:
    """Add in one of 1 000 rows."""
    signals = rows_with(req.cookies["faststate_session"], amount)
    return FastHTMLDatastarResponse(ServerSentEventGenerator.patch_signals(signals))


class Known(AuthenticationBackend):
    """Knows everybody by the port of their connection, and lets them count."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
        """Return who it is and what they may."""
        assert conn.client is not None
        return AuthCredentials(["count"]), SimpleUser(str(conn.client.port))


@requires("count")
async def increment_if_allowed(request: Request) -> DatastarResponse:
    """Add to the counter of this user, who may."""
    amount, user = (await request.json())["amount"], request.user.username
    counts[user] = counts.get(user, 0) + amount
    return DatastarResponse(ServerSentEventGenerator.patch_signals({"count": counts[user]}))


def know(req: Request) -> Response | None:
    """Do the same before a FastHTML handler."""
    assert req.client is not None
    req.scope["auth"], req.scope["permissions"] = str(req.client.port), {"count"}
    return None if "count" in req.scope["permissions"] else Response(status_code=403)


async def increment_if_allowed_in_fasthtml(req: Request, amount: int) -> FastHTMLDatastarResponse:
    """Add to the counter of this user, who may."""
    user = req.scope["auth"]
    counts[user] = counts.get(user, 0) + amount
    return FastHTMLDatastarResponse(ServerSentEventGenerator.patch_signals({"count": counts[user]}))


starlette_datastar = Starlette(
    routes=[
        Route("/increment", increment, methods=["POST"]),
        Route("/increment_row", increment_row, methods=["POST"]),
    ]
)
starlette_signed_in = Starlette(
    routes=[Route("/increment", increment_if_allowed, methods=["POST"])],
    middleware=[Middleware(AuthenticationMiddleware, backend=Known())],
)
fasthtml_datastar = FastHTML(secret_key=SECRET_KEY)
fasthtml_datastar.route("/increment", methods=["POST"])(increment_in_fasthtml)
fasthtml_datastar.route("/increment_row", methods=["POST"])(increment_row_in_fasthtml)
fasthtml_signed_in = FastHTML(secret_key=SECRET_KEY, before=know)
fasthtml_signed_in.route("/increment", methods=["POST"])(increment_if_allowed_in_fasthtml)


queues: dict[int, "asyncio.Queue[Any]"] = {}


async def queued() -> AsyncIterator[Any]:
    """Yield what is put into a queue of one stream, until its client leaves."""
    queue: asyncio.Queue[Any] = asyncio.Queue(100)
    queues[id(queue)] = queue
    try:
        yield ServerSentEventGenerator.patch_signals({"text": ""})
        while True:
            yield await queue.get()
    finally:
        del queues[id(queue)]


async def watch(request: Request) -> DatastarResponse:
    """Open a stream with a queue of its own."""
    return DatastarResponse(queued())


async def queued_events() -> AsyncIterator[Any]:
    """Yield the same as sse-starlette wants it."""
    async for frame in queued():
        yield {"event": "datastar-patch-signals", "data": frame.partition("data: ")[2].strip()}


async def watch_sse(request: Request) -> EventSourceResponse:
    """Open a stream of sse-starlette."""
    return EventSourceResponse(queued_events(), ping=60)


async def publish(request: Request) -> Response:
    """Encode a change once and put it into every queue."""
    await request.body()
    text = f"~{time.monotonic_ns():020d} {PADDING.decode()}"
    frame = ServerSentEventGenerator.patch_signals({"text": text}, event_id="0123456789abcdef")
    for queue in queues.values():
        queue.put_nowait(frame)
    return Response(status_code=204)


async def event(request: Request) -> DatastarResponse:
    """Answer an event that has nothing to do with the streams."""
    await request.body()
    return DatastarResponse(ServerSentEventGenerator.patch_signals({"count": 1}))


_routes = [Route("/publish", publish, methods=["POST"]), Route("/event", event, methods=["POST"])]
starlette_streams = Starlette(routes=[Route("/", watch), *_routes])
sse_starlette_streams = Starlette(routes=[Route("/", watch_sse), *_routes])
