"""Wrapping an app: what passes, where the endpoints are, and who starts and stops what."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from faststate_asgi import (
    ArgumentError,
    ConfigurationError,
    FastState,
    FastStateMiddleware,
    Html,
    ReactiveState,
    StateNotFoundError,
    StateRegistry,
    event,
    faststate_app,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, SECRET, plain_app, wrapped

pytestmark = pytest.mark.anyio


class Shop(ReactiveState):
    """Small."""

    sold: int = 0

    @event
    def sell(self) -> None:
        self.sold += 1

    @event
    def draw(self) -> Html:
        self.sold += 1
        return Html(f'<button id="b" data-on:click="{Shop.sell()}"></button>')


async def page(request: Request) -> PlainTextResponse:
    state = await Shop.aget(request)
    return PlainTextResponse(f"{state.sold} {Shop.sell()}")


def starlette(**options: Any) -> Starlette:
    return Starlette(routes=[Route("/", page)], **options)


async def test_a_page_that_touches_nothing_sets_no_cookie() -> None:
    async with FastStateClient(wrapped(Shop)) as client:
        answer = await client.get("/anything")
        assert (answer.status, answer.text) == (200, "a page")
        assert set(answer.headers) == {"content-type"}


async def test_a_page_that_reads_a_session_state_sets_one_cookie() -> None:
    async with FastStateClient(wrapped(Shop, app=starlette())) as client:
        first = await client.get("/")
        assert "faststate_session=" in first.headers["set-cookie"]
        assert first.headers["cache-control"] == "no-store"
        assert "cookie" in first.headers["vary"].lower()
        assert "set-cookie" not in (await client.get("/")).headers


@pytest.mark.parametrize("mode", ["cors", "no-cors", "same-origin", "websocket"])
async def test_a_sub_resource_sets_no_cookie(mode: str) -> None:
    async with FastStateClient(wrapped(Shop, app=starlette())) as client:
        answer = await client.get("/", headers={"sec-fetch-mode": mode})
        assert answer.status == 200
        assert "set-cookie" not in answer.headers


async def test_https_gets_the_strict_cookie() -> None:
    async with FastStateClient(wrapped(Shop), base_url="https://shop.example") as client:
        answer = await client.call("Shop/sell")
        assert answer.headers["set-cookie"].startswith("__Host-faststate_session=")
        assert "; Secure" in answer.headers["set-cookie"]
        assert (await client.call("Shop/sell")).signals == {"sold": 2}


@pytest.mark.parametrize("kind", ["tunnel", "lifespan.custom", "http.custom"])
async def test_other_scopes_pass_untouched(kind: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    scope, receive, send = {"type": kind}, object(), object()
    await wrapped(Shop, app=app)(scope, receive, send)
    assert seen == [(scope, receive, send)]
    assert scope == {"type": kind}


async def test_a_websocket_has_a_context() -> None:
    seen: list[Any] = []

    async def endpoint(websocket: WebSocket) -> None:
        context = websocket.scope["faststate"]
        seen.append(((await context.get(Shop)).sold, context.session_id))
        await websocket.accept()
        await websocket.close()

    app = wrapped((Shop, GLOBAL), app=Starlette(routes=[WebSocketRoute("/ws", endpoint)]))
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async with app.faststate:
        await app(
            {"type": "websocket", "path": "/ws", "headers": [], "query_string": b"", "subprotocols": []},
            receive,
            send,
        )
    assert seen == [(0, None)]
    assert sent == ["websocket.accept", "websocket.close"]


async def one_request(app: Any, path: str, method: str = "GET", **scope: Any) -> tuple[int, bytes]:
    """Send one request without any lifespan."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    base = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "scheme": "http"}
    await app({**base, **scope}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def test_it_works_where_no_lifespan_is_ever_sent() -> None:
    app = wrapped((Shop, GLOBAL), app=starlette())
    try:
        for count in (1, 2):
            status, body = await one_request(app, "/faststate/events/Shop/sell", "POST")
            assert (status, f'"sold":{count}'.encode() in body) == (200, True)
        assert (await one_request(app, "/"))[1].startswith(b"2 ")
    finally:
        await app.faststate.aclose()


async def test_first_requests_at_the_same_time_start_one_engine() -> None:
    app = wrapped((Shop, GLOBAL))
    try:
        await asyncio.gather(*(one_request(app, "/faststate/events/Shop/sell", "POST") for _ in range(50)))
        assert (await app.faststate.get(Shop)).sold == 50
    finally:
        await app.faststate.aclose()


async def test_engines_that_close_in_any_order_leave_a_signal_to_those_before_them() -> None:
    """A server that no longer hears its signal does not stop."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        first, second = wrapped((Shop, GLOBAL)), wrapped((Shop, GLOBAL))
        for app in (first, second):
            assert (await one_request(app, "/faststate/health"))[0] == 200
        await first.faststate.aclose()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0.01)
        assert heard == [signal.SIGTERM]
        assert second.faststate.runtime.is_draining
        await second.faststate.aclose()
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_after_the_event_loop_is_gone_goes_to_those_before() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        app = wrapped((Shop, GLOBAL))
        asyncio.run(one_request(app, "/faststate/health"))
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        app.faststate.restore_signals()
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_client_script_that_is_not_there_is_an_error_at_the_start() -> None:
    app = wrapped((Shop, GLOBAL), datastar_url="nofile.js")
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "datastar_url names nofile.js" in sent[0]["message"]
    with pytest.raises(ConfigurationError, match=r"datastar_url names nofile\.js"):
        app.faststate.check()


async def test_head_of_the_client_script_tells_its_length(tmp_path: Path) -> None:
    script = tmp_path / "datastar.js"
    script.write_text("let it = 'be'")
    app = wrapped((Shop, GLOBAL), datastar_url=str(script))
    async with FastStateClient(app) as client:
        whole = await client.get("/faststate/datastar.js")
        head = await client.request("HEAD", "/faststate/datastar.js")
        assert (whole.body, head.body) == (script.read_bytes(), b"")
        assert whole.headers == head.headers
        assert head.headers["content-length"] == "13"


async def test_an_app_without_lifespan_is_fine() -> None:
    async with FastStateClient(wrapped((Shop, GLOBAL), app=plain_app)) as client:
        assert (await client.call("Shop/sell")).signals == {"sold": 1}


async def test_the_inner_lifespan_runs_inside_the_engines() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with middleware.faststate.transaction(Shop) as shop:
            shop.sold = 5
        steps.append("started")
        yield {"shared": "value"}
        async with middleware.faststate.transaction(Shop) as shop:
            steps.append(f"stopped at {shop.sold}")

    middleware = wrapped((Shop, GLOBAL), app=starlette(lifespan=lifespan))
    async with FastStateClient(middleware) as client:
        assert (await client.get("/")).text.startswith("5 ")
    assert steps == ["started", "stopped at 5"]


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_an_inner_app_that_fails_is_reported(phase: str) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if phase == "startup":
            raise RuntimeError("no start")
        yield
        raise RuntimeError("no stop")

    app = wrapped((Shop, GLOBAL), app=starlette(lifespan=lifespan))
    with pytest.raises(RuntimeError, match=phase):
        async with FastStateClient(app):
            pass
    async with asyncio.timeout(5):
        while app.faststate._loop is not None:
            await asyncio.sleep(0)


async def test_root_path_is_in_every_address() -> None:
    app = wrapped((Shop, GLOBAL), app=starlette())
    async with FastStateClient(app, root_path="/sub/dir") as client:
        assert "@post('/sub/dir/faststate/events/Shop/sell'" in (await client.get("/")).text
        answer = await client.call("Shop/draw")
        assert "@post('/sub/dir/faststate/events/Shop/sell'" in answer.text


async def test_it_can_be_mounted_under_another_app() -> None:
    inner = wrapped((Shop, GLOBAL), app=starlette())
    async with FastStateClient(Starlette(routes=[Mount("/sub", app=inner)])) as client:
        assert "@post('/sub/faststate/events/Shop/sell'" in (await client.get("/sub/")).text
        answer = await client.post("/sub/faststate/events/Shop/draw", json={})
        assert "@post('/sub/faststate/events/Shop/sell'" in answer.text
        await inner.faststate.aclose()


async def test_another_mount_path_moves_everything() -> None:
    app = wrapped((Shop, GLOBAL), app=starlette(), mount_path="/_/live")
    async with FastStateClient(app, mount_path="/_/live") as client:
        assert "@post('/_/live/events/Shop/sell'" in (await client.get("/")).text
        assert (await client.call("Shop/sell")).signals == {"sold": 1}
        assert (await client.get("/_/live/health")).json()["status"] == "ok"
        assert (await client.post("/faststate/events/Shop/sell")).status == 404


async def test_the_endpoints_can_be_mounted_by_hand() -> None:
    registry = StateRegistry()
    registry.register(Shop, GLOBAL)
    faststate = FastState(registry=registry, secret_key=SECRET, serve=False)
    inner = Starlette(routes=[Route("/", page), Mount("/faststate", app=faststate_app(faststate))])
    async with FastStateClient(FastStateMiddleware(inner, faststate)) as client:
        answer = await client.call("Shop/draw")
        assert "@post('/faststate/events/Shop/sell'" in answer.text
        assert "@post('/faststate/events/Shop/sell'" in (await client.get("/")).text
        assert (await client.call("Shop/nothing")).status == 404
        async with client.stream("Shop") as stream:
            await stream.until(lambda signals: signals.get("sold") == 1)


async def test_without_serving_the_addresses_belong_to_the_inner_app() -> None:
    async with FastStateClient(wrapped((Shop, GLOBAL), serve=False)) as client:
        assert (await client.get("/faststate/health")).text == "a page"


@pytest.mark.parametrize("path", ["/faststate", "/faststatex/sse", "/Faststate/sse", "/x/faststate/sse"])
async def test_neighbouring_addresses_belong_to_the_inner_app(path: str) -> None:
    async with FastStateClient(wrapped((Shop, GLOBAL))) as client:
        assert (await client.get(path)).text == "a page"


@pytest.mark.parametrize("path", ["/faststate/", "/faststate/nothing", "/faststate/sse/", "/faststate/events"])
async def test_unknown_endpoints_are_problems(path: str) -> None:
    async with FastStateClient(wrapped((Shop, GLOBAL))) as client:
        answer = await client.get(path)
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("error", "status"), [(StateNotFoundError("no"), 404), (ArgumentError("no"), 422), (ConfigurationError("no"), 500)]
)
async def test_our_exceptions_have_their_status_in_any_app(error: Exception, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    async with FastStateClient(wrapped(Shop, app=app)) as client:
        answer = await client.get("/")
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"


async def test_other_exceptions_are_the_inner_apps() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("mine")

    app_ = wrapped(Shop, app=app)
    async with app_.faststate:
        with pytest.raises(KeyError):
            await one_request(app_, "/")


async def test_streaming_pages_pass() -> None:
    async def stream(request: Request) -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            await asyncio.sleep(0)
            yield "b"

        return StreamingResponse(parts())

    async with FastStateClient(wrapped(Shop, app=Starlette(routes=[Route("/", stream)]))) as client:
        assert (await client.get("/")).text == "ab"


def test_an_engine_and_settings_exclude_each_other() -> None:
    faststate = FastState(secret_key=SECRET)
    with pytest.raises(ConfigurationError, match="not both"):
        FastStateMiddleware(plain_app, faststate, debug=True)


def test_an_engine_or_registry_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"a FastState\(...\), not 5"):
        FastStateMiddleware(plain_app, 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="registry must be a StateRegistry, not 5"):
        FastStateMiddleware(plain_app, registry=5, secret_key=SECRET)


def test_a_missing_key_is_an_error_before_any_request() -> None:
    with pytest.raises(ConfigurationError, match="secret_key is missing"):
        FastStateMiddleware(plain_app)


async def test_a_closed_engine_can_be_opened_again() -> None:
    app = wrapped((Shop, GLOBAL))
    for _ in range(2):
        async with FastStateClient(app) as client:
            assert (await client.call("Shop/sell")).status == 200
