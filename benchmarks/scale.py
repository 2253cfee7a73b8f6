"""Does an event cost more when there is more that it does not touch?

`python -m benchmarks.scale [--quick]`, in this process: 10 to 1 000 registered classes, 10 to 100 000 stored keys, 10 to
5 000 open streams of another state. The others get a route for each class, and the measured one stands in the middle.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from fasthtml.common import FastHTML
from starlette.applications import Starlette
from starlette.routing import Route

from benchmarks import apps, costs, floor, report, rivals
from benchmarks.inprocess import BROWSER, EVENTS, Audience, event_operation, exchange, in_batches, scope_of
from benchmarks.load import PLAIN_COOKIE
from faststate_asgi import FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, StateScope, event

CLASSES = "registered classes"
SIZES = {CLASSES: (10, 100, 1_000), "stored keys": (10, 1_000, 100_000), "other streams": (10, 500, 5_000)}


class Item(ReactiveState):
    """One of many records."""

    count: int = 0


def fresh_app(classes: int = 3) -> FastStateMiddleware:
    """Return the package with so many registered classes, in a store of its own."""
    registry = StateRegistry()
    registry.register(apps.SessionCounter, StateConfig(namespace="own"))
    registry.register(apps.Board, StateConfig(scope=StateScope.GLOBAL))
    registry.register(Item, StateConfig(scope=StateScope.RECORD, public=True, namespace=True))
    for number in range(classes - 3):
        registry.register(other_class(number), StateConfig(namespace=True))
    return FastStateMiddleware(apps.site, registry=registry, secret_key=apps.SECRET_KEY)


def other_class(number: int) -> type[ReactiveState]:
    """Return a class with a field and an event of its own."""

    async def increment(self: ReactiveState) -> None:
        """Do nothing."""

    body = {
        "__module__": __name__,
        "__annotations__": {"count": int},
        "count": 0,
        "increment": event(increment),
    }
    return type(f"Other{number}", (ReactiveState,), body)


async def store(app: FastStateMiddleware, keys: int) -> None:
    """Store so many records."""
    for number in range(keys):
        async with app.faststate.transaction(Item, record_id=number) as item:
            item.count = number + 1
        if number % 50 == 0:
            await asyncio.sleep(0)


async def open_streams(app: FastStateMiddleware, number: int) -> None:
    """Open streams of a state that the event does not touch."""
    audience = Audience()
    audience.expect(2 * number)
    for _ in range(number):
        scope = scope_of("GET", "/faststate/sse", b"states=Board", BROWSER)
        kept.append(asyncio.ensure_future(app(scope, audience.receive, audience.send)))
    await audience.all_there.wait()


kept: list["asyncio.Future[None]"] = []


def starlette_app(classes: int) -> Any:
    """Return Starlette with a route for each class."""
    routes = [Route(f"/other{number}/increment", rivals.increment, methods=["POST"]) for number in range(classes - 1)]
    routes.insert(classes // 2, Route("/increment", rivals.increment, methods=["POST"]))
    return Starlette(routes=routes)


def fasthtml_app(classes: int) -> Any:
    """Return FastHTML with a route for each class."""
    app = FastHTML(secret_key=apps.SECRET_KEY)
    names = [f"other{number}/increment" for number in range(classes - 1)]
    names.insert(classes // 2, "increment")
    for name in names:
        app.route(f"/{name}", methods=["POST"], name=name)(rivals.increment_in_fasthtml)
    return app


def plain_operation(app: Any) -> costs.Work:
    """Return what posts the same to an app without sessions."""
    headers = [*BROWSER, (b"cookie", PLAIN_COOKIE.encode())]

    async def one(_: int) -> None:
        answer = await exchange("POST", "/increment", headers, b'{"amount":1}', app)
        assert b'"count":' in answer.sent, answer.sent

    return lambda number: in_batches(number, one)


async def works(kind: str, stack: AsyncExitStack) -> dict[str, costs.Work]:
    """Return the floor and the same event in an app of each size."""
    made = {"floor": plain_operation(floor.events)}
    for size in SIZES[kind]:
        app = fresh_app(size if kind == CLASSES else 3)
        await stack.enter_async_context(app.faststate)
        if kind == "stored keys":
            await store(app, size)
        elif kind == "other streams":
            await open_streams(app, size)
        made[f"faststate, {size}"] = await event_operation(f"{EVENTS}/SessionCounter/increment_inline", app)
    if kind == CLASSES:
        made |= {f"Starlette, {size}": plain_operation(starlette_app(size)) for size in SIZES[kind]}
        made |= {f"FastHTML, {size}": plain_operation(fasthtml_app(size)) for size in SIZES[kind]}
    return made


def with_growth(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Add the ratio of each cost to that of the smallest size."""
    smallest: dict[str, float] = {}
    for one in rows:
        cost = float(str(one["cpu_us"]))
        first = smallest.setdefault(str(one["variant"]).partition(",")[0], cost)
        one["of_the_smallest"] = round(cost / first, 3)
    return rows


async def main() -> None:
    """Measure each kind in turn."""
    arguments, before = costs.parse_arguments(__doc__), report.environment()
    costs.pin()
    rows: list[dict[str, object]] = []
    for kind in SIZES:
        async with AsyncExitStack() as stack:
            made = await works(kind, stack)
            rows += with_growth(costs.figures(kind, await costs.measure(made, 160, is_quick=arguments.quick)))
            for stream in kept:
                stream.cancel()
            await asyncio.gather(*kept, return_exceptions=True)
            kept.clear()
    costs.tell("scale", "Processor us for an event", rows, before, file=not arguments.no_file)


if __name__ == "__main__":
    uvloop.run(main())
