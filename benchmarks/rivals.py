"""The same counter written with other packages, none of which promises what an event here promises.

They keep a number in the process's memory: no session check, no turn, no idempotency: their figures flatter.
"""

from datastar_py.fasthtml import DatastarResponse as FastHTMLDatastarResponse
from datastar_py.starlette import DatastarResponse, ServerSentEventGenerator
from fasthtml.common import FastHTML
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

counts: dict[str, int] = {}


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


starlette_datastar = Starlette(routes=[Route("/increment", increment, methods=["POST"])])
fasthtml_datastar = FastHTML()
fasthtml_datastar.route("/increment", methods=["POST"])(increment_in_fasthtml)
