"""What does a page cost into which one state of the session is injected and seeded?

`python -m benchmarks.pages [--quick]`, in this process: the page's own work, without what a server costs.
"""

from typing import Any

import uvloop
from fasthtml.common import FastHTML
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from benchmarks import apps, costs, report
from benchmarks.inprocess import AT_ONCE, NAVIGATION, cookies, exchange, in_batches
from faststate_asgi import FastStateMiddleware, Live
from faststate_asgi.integrations.starlette import inject

PAGE = b"<!doctype html><title>page</title><div data-signals='{}'></div><p>1</p>"


async def floor(scope: Any, receive: Any, send: Any) -> None:
    """Answer constant bytes: the floor of a page."""
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(PAGE)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE})


async def starlette_page(request: Request) -> HTMLResponse:
    """Answer the same from Starlette's own session cookie."""
    request.session["count"] = request.session.get("count", 0) + 1
    return HTMLResponse(f"<!doctype html><title>page</title><p data-signals='{{}}'>{request.session['count']}</p>")


@inject
async def injected_page(request: Request, counter: apps.SessionCounter) -> HTMLResponse:
    """Answer the same with a state."""
    return HTMLResponse(f"<!doctype html><title>page</title>{Live(counter)}<p>{counter.count}</p>")


def fasthtml_app() -> Any:
    """Return FastHTML with its session, which counts the visits."""
    app = FastHTML(secret_key=apps.SECRET_KEY, default_hdrs=False)

    def page(req: Request) -> HTMLResponse:
        req.session["count"] = req.session.get("count", 0) + 1
        return HTMLResponse(f"<!doctype html><title>page</title><p data-signals='{{}}'>{req.session['count']}</p>")

    app.route("/page")(page)
    return app


PAGES: dict[str, Any] = {
    "floor: constant bytes": floor,
    "faststate, raw ASGI": apps.app,
    "faststate, Starlette": FastStateMiddleware(Starlette(routes=[Route("/page", injected_page)]), apps.app.faststate),
    "Starlette + SessionMiddleware": Starlette(
        routes=[Route("/page", starlette_page)],
        middleware=[Middleware(SessionMiddleware, secret_key=apps.SECRET_KEY)],
    ),
    "FastHTML + its session": fasthtml_app(),
}


async def page_works() -> dict[str, costs.Work]:
    """Return what opens each kind of page for sessions that exist."""
    sessions = [[*NAVIGATION, (b"cookie", cookie)] for cookie in await cookies(AT_ONCE)]

    def work(app: Any) -> costs.Work:
        async def one(index: int) -> None:
            answer = await exchange("GET", "/page", sessions[index % AT_ONCE], app=app)
            assert answer.status == 200, answer.sent
            assert b"data-signals" in answer.sent, answer.sent

        return lambda number: in_batches(number, one)

    return {name: work(app) for name, app in PAGES.items()}


async def main() -> None:
    """Run what the command line asks for."""
    arguments, before = costs.parse_arguments(__doc__), report.environment()
    costs.pin()
    async with apps.app.faststate as engine:
        engine.settle_memory()
        measured = await costs.measure(await page_works(), 160, is_quick=arguments.quick)
    rows = costs.figures("page", measured)
    costs.tell("pages", "Processor us for a page", rows, before, file=not arguments.no_file)


if __name__ == "__main__":
    uvloop.run(main())
