"""Read-only copies: changes in place are reported in debug, and watched states can be read while the store is down."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import (
    FastStateMiddleware,
    ReactiveState,
    ReadOnlyStateError,
    StateConfig,
    StateRegistry,
    StateScope,
    StoreUnavailableError,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class Shelf(ReactiveState):
    books: list[str] = []


async def add_in_place(request: Request) -> PlainTextResponse:
    shelf = await Shelf.aget(request)
    shelf.books.append("lost")
    return PlainTextResponse("done")


async def show(request: Request) -> PlainTextResponse:
    return PlainTextResponse(",".join((await Shelf.aget(request)).books))


def shelf_app(**settings: Any) -> FastStateMiddleware:
    registry = StateRegistry()
    registry.register(Shelf, StateConfig(scope=StateScope.GLOBAL))
    app = Starlette(routes=[Route("/add", add_in_place), Route("/", show)])
    return FastStateMiddleware(app, registry=registry, secret_key="k" * 40, **settings)


@pytest.mark.parametrize("debug", [True, False])
async def test_a_change_in_place_is_reported_in_debug_and_never_kept(
    debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="faststate"):
        async with FastStateClient(shelf_app(debug=debug)) as client:
            await client.get("/add")
            assert (await client.get("/")).text == ""
    assert ("changed in place" in caplog.text) is debug


async def test_a_watched_state_can_be_read_while_its_store_is_down() -> None:
    app = shelf_app()
    async with FastStateClient(app) as client:
        async with app.faststate.transaction(Shelf) as shelf:
            shelf.books.append("Emma")
        async with client.stream("Shelf") as stream:
            await stream.next()
            await app.faststate.records.aclose()
            assert (await client.get("/")).text == "Emma"
        await app.faststate.records.open()


async def test_a_state_that_nobody_watches_cannot() -> None:
    app = shelf_app()
    async with FastStateClient(app) as client:
        await app.faststate.records.aclose()
        with pytest.raises(StoreUnavailableError):
            await app.faststate.get(Shelf)
        assert (await client.get("/")).status == 503
        await app.faststate.records.open()


@pytest.mark.parametrize("has_failed", [False, True])
async def test_a_transactions_copy_is_read_only_after_its_block(has_failed: bool) -> None:
    """What it would take then is stored nowhere."""
    async with shelf_app().faststate as engine:
        try:
            async with engine.transaction(Shelf) as shelf:
                async with engine.transaction(Shelf):
                    pass
                shelf.books = ["kept"]
                if has_failed:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        with pytest.raises(ReadOnlyStateError, match="transaction"):
            shelf.books = ["lost"]
        with pytest.raises(ReadOnlyStateError):
            shelf.delete()
        assert shelf.books == ["kept"]
        assert shelf.version == ("0" if has_failed else (await engine.get(Shelf)).version)
