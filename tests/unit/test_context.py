"""The request's context: lazy, one copy for each state, usable from worker threads, and clear about misuse."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import (
    ConfigurationError,
    Identity,
    NotResolvedError,
    ReactiveState,
    ReadOnlyStateError,
    StateConfig,
    StateNotFoundError,
    StateScope,
    event,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, RECORD, wrapped

pytestmark = pytest.mark.anyio
FOUND: dict[str, Any] = {}


class Cart(ReactiveState):
    """For one visitor."""

    items: list[str] = []
    total: int = 0

    @event
    def add(self) -> None:
        self.total += 1


class Product(ReactiveState):
    """Has to be created."""

    name: str
    stock: int = 0


def app_of(endpoint: Any, **settings: Any) -> Any:
    inner = Starlette(routes=[Route("/{record_id}", endpoint), Route("/", endpoint)])
    return wrapped(Cart, (Product, RECORD), app=inner, **settings)


async def run(endpoint: Any, path: str = "/", **settings: Any) -> Any:
    FOUND.clear()
    async with FastStateClient(app_of(endpoint, **settings)) as client:
        return await client.get(path)


async def test_what_is_used_too_early_says_what_to_do() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        context = request.scope["faststate"]
        for name in ("session_id", "user", "auth", "identity", "has_session"):
            with pytest.raises(NotResolvedError, match="resolve"):
                getattr(context, name)
        with pytest.raises(NotResolvedError, match="aget"):
            Cart.get(request)
        await context.resolve()
        return PlainTextResponse(f"{context.user} {context.session_id is not None}")

    assert (await run(endpoint)).text == "None True"


async def test_worker_threads_resolve_by_themselves() -> None:
    def endpoint(request: Request) -> PlainTextResponse:
        context = request.scope["faststate"]
        FOUND.update(user=context.user, total=Cart.get(request).total)
        with context.engine.sync.transaction(Cart, session_id=context.session_id) as cart:
            cart.total = 7
        return PlainTextResponse("ok")

    assert (await run(endpoint, authenticate=lambda connection: Identity("ada"))).text == "ok"
    assert FOUND == {"user": "ada", "total": 0}


async def test_the_sync_twin_refuses_to_block_the_event_loop() -> None:
    app = wrapped((Cart, GLOBAL))
    refused: list[str] = []

    def use_on_the_loop() -> None:
        async def main() -> None:
            async with app.faststate as faststate:
                for action in (
                    lambda: faststate.sync.get(Cart),
                    lambda: faststate.sync.transaction(Cart).__enter__(),
                ):
                    try:
                        action()
                    except Exception as exc:
                        refused.append(type(exc).__name__)

        asyncio.run(main())

    import threading

    thread = threading.Thread(target=use_on_the_loop, daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, 3)
    assert refused == ["NotResolvedError", "NotResolvedError"]


async def test_a_state_is_one_read_only_copy_for_the_request() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        cart = await Cart.aget(request)
        assert cart is await request.scope["faststate"].get(Cart)
        with pytest.raises(ReadOnlyStateError, match="transaction"):
            cart.total = 5
        with pytest.raises(ReadOnlyStateError, match="transaction"):
            cart.add()
        with pytest.raises(ReadOnlyStateError, match="delete"):
            cart.delete()
        return PlainTextResponse(f"{cart.is_read_only} {cart.version}")

    assert (await run(endpoint)).text == "True 0"


async def test_states_that_are_asked_for_at_the_same_time_are_one_copy(tmp_path: Path) -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        one, other = await asyncio.gather(*(request.scope["faststate"].get(Cart) for _ in range(2)))
        return PlainTextResponse(str(one is other))

    store = f"sqlite+aiosqlite:///{tmp_path / 'faststate.db'}"
    assert (await run(endpoint, store=store, debug=True)).text == "True"


async def test_a_transaction_is_seen_by_the_next_read() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        context = request.scope["faststate"]
        before = await context.get(Cart)
        async with context.transaction(Cart) as cart:
            cart.total = 5
            cart.items.append("x")
        after = await context.get(Cart)
        return PlainTextResponse(f"{before.total} {after.total} {after.items} {after.id == before.id}")

    assert (await run(endpoint)).text == "0 5 ['x'] True"


async def test_reading_stores_nothing() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        context = request.scope["faststate"]
        await context.get(Cart)
        async with context.transaction(Cart):
            pass
        return PlainTextResponse(str(await context.engine.records.count()))

    assert (await run(endpoint)).text == "0"


async def test_what_was_never_created_is_not_found() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        context = request.scope["faststate"]
        assert await context.get_or_none(Product) is None
        with pytest.raises(StateNotFoundError):
            await context.get(Product)
        with pytest.raises(ValueError, match="Product"):
            async with context.transaction(Product) as product:
                product.stock = 4
        async with context.transaction(Product) as product:
            product.name, product.stock = "pen", 4
        found = await context.get(Product)
        await context.delete(Product)
        assert await context.get_or_none(Product) is None
        return PlainTextResponse(f"{found.name} {found.stock}")

    assert (await run(endpoint, "/42")).text == "pen 4"


async def test_a_required_id_that_is_missing_is_named() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        await Product.aget(request)
        return PlainTextResponse("never")

    page = await run(endpoint)
    assert page.status == 400
    assert "record_id" in page.text


async def test_ids_do_not_change_with_reading_and_differ_between_records() -> None:
    app = wrapped((Cart, RECORD))
    async with FastStateClient(app):
        first = await app.faststate.get(Cart, record_id=1)
        again = await app.faststate.get(Cart, record_id="1")
        other = await app.faststate.get(Cart, record_id=2)
        assert first.id == again.id != other.id
        assert str(first.key) == "record:Cart:1"


async def test_a_request_that_touches_nothing_reads_nothing() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(repr(request.scope["faststate"]))

    assert (await run(endpoint)).text == "<RequestContext not resolved>"


async def test_a_missing_middleware_is_named() -> None:
    with pytest.raises(ConfigurationError, match="FastStateMiddleware"):
        await Cart.aget({"type": "http"})


async def test_state_expires_after_its_time_without_a_write() -> None:
    app = wrapped((Cart, StateConfig(scope=StateScope.GLOBAL, ttl=0.2)))
    async with FastStateClient(app):
        async with app.faststate.transaction(Cart) as cart:
            cart.total = 5
        assert (await app.faststate.get(Cart)).total == 5
        await asyncio.sleep(0.25)
        assert (await app.faststate.get(Cart)).total == 0
        async with app.faststate.transaction(Cart) as cart:
            assert cart.total == 0
            cart.total = 1
        assert (await app.faststate.get(Cart)).total == 1


async def test_clearing_a_session_leaves_the_others() -> None:
    app = wrapped(Cart)
    async with FastStateClient(app):
        for session_id in ("a", "b"):
            async with app.faststate.transaction(Cart, session_id=session_id) as cart:
                cart.total = 5
        assert await app.faststate.clear_session_states("a") == 1
        assert (await app.faststate.get(Cart, session_id="a")).total == 0
        assert (await app.faststate.get(Cart, session_id="b")).total == 5


@pytest.mark.parametrize("config", [StateConfig(), StateConfig(scope=StateScope.USER), RECORD])
async def test_ids_that_a_script_forgets_are_named(config: StateConfig) -> None:
    app = wrapped((Cart, config))
    async with FastStateClient(app):
        with pytest.raises(ConfigurationError, match=r"pass .*_id="):
            await app.faststate.get(Cart)


@pytest.mark.parametrize("wanted", [Cart(), [Cart, Product], None, "Cart"], ids=["instance", "list", "nothing", "text"])
async def test_a_transaction_on_what_is_no_class_is_refused(wanted: Any) -> None:
    app = app_of(None)
    async with FastStateClient(app):
        with pytest.raises(ConfigurationError, match="class"):
            async with app.faststate.transaction(wanted):
                pass


async def test_an_id_for_a_state_that_has_none_is_refused() -> None:
    async def read(request: Request) -> PlainTextResponse:
        for ids in ({"record_id": 1}, {"component_id": "left"}):
            with pytest.raises(ConfigurationError, match="session scope"):
                await Cart.aget(request, **ids)
            with pytest.raises(ConfigurationError, match="session scope"):
                async with request.scope["faststate"].transaction(Cart, **ids):
                    pass
            with pytest.raises(ConfigurationError, match="session scope"):
                await request.scope["faststate"].engine.get(Cart, session_id="s", **ids)
        return PlainTextResponse("refused")

    assert (await run(read)).text == "refused"
    assert (await run(read, "/5")).text == "refused"  # an id in the path is for whoever has one
