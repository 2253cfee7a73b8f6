"""``FastStateClient``: drives a wrapped app in process, like one browser with one cookie jar.

It calls events by name, reads answers and streams as Datastar does, and needs no server. Streams work because the
client runs the app's coroutine itself instead of waiting for the end of the response.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from ..actions import ActionBuilder, path_parts
from .sse import Frame, FrameReader, apply, parse_frames

DEADLINE_S = 10.0
App = Callable[..., Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Page:
    """A complete response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class Answer(Page):
    """The answer of an event, as Datastar reads it."""

    @property
    def frames(self) -> list[Frame]:
        """The SSE frames of the body."""
        return parse_frames(self.body) if "text/event-stream" in self.headers.get("content-type", "") else []

    @property
    def signals(self) -> dict[str, Any]:
        """What a page that knew nothing holds after the answer, ``_faststate`` left out."""
        return {name: value for name, value in self._merged().items() if name != "_faststate"}

    @property
    def elements(self) -> list[Frame]:
        """The frames that patch elements."""
        return [frame for frame in self.frames if frame.event == "datastar-patch-elements"]

    @property
    def error(self) -> dict[str, Any] | None:
        """``$_faststate.error`` or the problem document, None if there is none."""
        if "json" in self.headers.get("content-type", "") and self.body:
            document: dict[str, Any] = self.json()
            return document if "status" in document else document.get("_faststate", {}).get("error")
        return self._merged().get("_faststate", {}).get("error") or None

    def _merged(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for frame in self.frames:
            apply(result, frame)
        return result


class LiveStream:
    """An open stream, as one tab sees it."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._reader = FrameReader()
        self._waiting: list[Frame] = []
        self.signals: dict[str, Any] = {}
        self.frames: list[Frame] = []
        self.last_id: str | None = None
        self.retry_ms: int | None = None

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._exchange.status

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers."""
        return self._exchange.headers

    @property
    def is_ended(self) -> bool:
        """Whether the server has ended the response."""
        return self._exchange.is_complete and not self._waiting

    def stall(self) -> None:
        """Take nothing more from the server: its ``send`` waits, as for a reader whose buffers are full."""
        self._exchange.is_taking.clear()

    def resume(self) -> None:
        """Take again what the server sends."""
        self._exchange.is_taking.set()

    async def body(self) -> bytes:
        """Return the whole body of a response that ends, such as a refusal."""
        return await self._exchange.whole(DEADLINE_S)

    async def next(self, timeout_s: float = DEADLINE_S) -> Frame:
        """Return the next frame, and merge its signals.

        Raises:
            TimeoutError: none came.
            EOFError: the server ended the stream.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                while not self._waiting:
                    chunk = await self._exchange.chunk()
                    if chunk is None:
                        raise EOFError("the stream has ended")
                    self._waiting += self._reader.feed(chunk)
                frame = self._waiting.pop(0)
                self.last_id = frame.id if frame.id is not None else self.last_id
                self.retry_ms = frame.retry if frame.retry is not None else self.retry_ms
                if frame.event:
                    break
        apply(self.signals, frame)
        self.frames.append(frame)
        return frame

    async def until(
        self, is_reached: Callable[[dict[str, Any]], bool], timeout_s: float = DEADLINE_S
    ) -> dict[str, Any]:
        """Read until the signals satisfy ``is_reached``, and return them; a missing signal counts as not reached."""

        def is_there() -> bool:
            try:
                return is_reached(self.signals)
            except KeyError:
                return False

        async with asyncio.timeout(timeout_s):
            while not is_there():
                await self.next(timeout_s)
        return self.signals

    async def until_end(self, timeout_s: float = DEADLINE_S) -> None:
        """Read until the server ends the stream."""
        async with asyncio.timeout(timeout_s):
            with suppress(EOFError):
                while True:
                    await self.next(timeout_s)


class _Exchange:
    """One request to the app and what has come back so far."""

    def __init__(self, app: App, scope: dict[str, Any], body: bytes) -> None:
        self._app, self._scope = app, scope
        self._request: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._request.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._started = asyncio.Event()
        self.is_taking = asyncio.Event()
        self.is_taking.set()
        self._task: asyncio.Task[None] | None = None
        self.status = 0
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    @property
    def headers(self) -> dict[str, str]:
        result: dict[str, str] = {}
        for name, value in self.raw_headers:
            key = name.decode().lower()
            result[key] = f"{result[key]}, {value.decode('latin-1')}" if key in result else value.decode("latin-1")
        return result

    async def start(self) -> None:
        """Run the app until the response starts."""
        self._task = asyncio.get_running_loop().create_task(self._app(self._scope, self._receive, self._send))
        self._task.add_done_callback(lambda _: self._chunks.put_nowait(None))
        started = asyncio.get_running_loop().create_task(self._started.wait())
        async with asyncio.timeout(DEADLINE_S * 6):
            await asyncio.wait({self._task, started}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            self._task.result()
            raise AssertionError("the app returned without a response")

    async def _receive(self) -> dict[str, Any]:
        return await self._request.get()

    async def _send(self, message: dict[str, Any]) -> None:
        if not self.is_taking.is_set():
            await self.is_taking.wait()
        if message["type"] == "http.response.start":
            self.status, self.raw_headers = message["status"], list(message.get("headers", ()))
            self._started.set()
        elif message["type"] == "http.response.body":
            if message.get("body"):
                self._chunks.put_nowait(message["body"])
            if not message.get("more_body"):
                self.is_complete = True
                self._chunks.put_nowait(None)

    async def chunk(self) -> bytes | None:
        """Return the next part of the body, None at its end."""
        chunk = await self._chunks.get()
        if chunk is None:
            self._chunks.put_nowait(None)
        return chunk

    async def whole(self, timeout_s: float) -> bytes:
        """Return the whole body."""
        parts: list[bytes] = []
        async with asyncio.timeout(timeout_s):
            while (chunk := await self.chunk()) is not None:
                parts.append(chunk)
        return b"".join(parts)

    async def finish(self) -> None:
        """Wait for the app, which may do more after its response."""
        if self._task is not None:
            async with asyncio.timeout(DEADLINE_S):
                await self._task

    async def leave(self) -> None:
        """Go away like a browser that closes the tab."""
        self._request.put_nowait({"type": "http.disconnect"})
        if self._task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE_S):
                    await asyncio.wait({self._task})
            if not self._task.done():
                self._task.cancel()
            elif not self._task.cancelled() and self._task.exception() is not None:
                raise self._task.exception() or AssertionError


class FastStateClient:
    """One browser in front of a wrapped app, without a server.

    Args:
        app: the wrapped app, such as a ``FastStateMiddleware``.
        base_url: what the browser's address bar would show; ``https`` makes the cookie secure.
        root_path: ASGI's ``root_path``.
        mount_path: where the sub-application is.
    """

    def __init__(
        self, app: App, base_url: str = "http://testserver", root_path: str = "", mount_path: str = "/faststate"
    ) -> None:
        self.app = app
        self.cookies: dict[str, str] = {}
        self._parts = urlsplit(base_url)
        self._root_path, self._mount_path = root_path, mount_path
        self._lifespan: _Lifespan | None = None

    def another(self) -> FastStateClient:
        """Return another browser in front of the same running app: a cookie jar of its own."""
        return FastStateClient(self.app, self._parts.geturl(), self._root_path, self._mount_path)

    async def __aenter__(self) -> FastStateClient:
        self._lifespan = _Lifespan(self.app)
        await self._lifespan.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._lifespan is not None:
            await self._lifespan.stop()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Page:
        """Send one request and return the complete response; cookies are kept."""
        exchange = self._exchange(method, path, dict(headers or {}), body)
        await exchange.start()
        whole = await exchange.whole(DEADLINE_S * 6)
        await exchange.finish()
        self._keep_cookies(exchange)
        return Page(exchange.status, exchange.headers, whole)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Page:
        """Ask for a page as a browser does."""
        return await self.request("GET", path, headers={"accept": "text/html", **(headers or {})})

    async def post(
        self,
        path: str,
        *,
        json: Any = None,
        data: Mapping[str, Any] | None = None,
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
    ) -> Answer:
        """Send JSON, a form, or a form with files (name -> (file name, content, content type))."""
        content_type, body = _encoded(json, data, files)
        given = {"content-type": content_type} if content_type else {}
        page = await self.request(method, path, headers={**given, **(headers or {})}, body=body)
        return Answer(page.status, page.headers, page.body)

    async def call(
        self,
        event: ActionBuilder[...] | str,
        *args: Any,
        headers: Mapping[str, str] | None = None,
        datastar: bool = True,
        ids: Mapping[str, str] | None = None,
        key: str | None = None,
        **kwargs: Any,
    ) -> Answer:
        """Call an event as a click does.

        Args:
            event: ``CounterState.increment``, ``product.actions.rename``, or ``"CounterState/increment"``.
            args: the event's arguments; with a path, one mapping of them.
            headers: more headers.
            datastar: whether to say that Datastar asks.
            ids: query parameters, such as ``{"record_id": "42"}``.
            key: the idempotency key; a fresh one by default.
            kwargs: the event's arguments by name.
        """
        if isinstance(event, str):
            path, method = event, "POST"
            payload: dict[str, Any] = {**(args[0] if args else {}), **kwargs}
            query = dict(ids or {})
        else:
            spec = event.spec
            path, method = spec.path, spec.method
            payload = spec.bind_partial(args, kwargs)
            query = {**event.ids, **(ids or {})}
            path = "".join(
                str(payload.pop(text) if text in payload else query.pop(text)) if is_name else text
                for text, is_name in path_parts(path)
            )
        url = f"{self._mount_path}/events/{quote(path, safe='/')}"
        sent = {"idempotency-key": key or secrets.token_hex(16), **({"datastar-request": "true"} if datastar else {})}
        if method in ("GET", "DELETE"):
            query["datastar"] = json.dumps(payload)
        if query:
            url += f"?{urlencode(query)}"
        body = None if method in ("GET", "DELETE") else payload
        return await self.post(url, json=body, headers={**sent, **(headers or {})}, method=method)

    @asynccontextmanager
    async def stream(
        self,
        *states: str,
        last_event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        datastar: bool = True,
    ) -> AsyncGenerator[LiveStream]:
        """Open a stream as ``Live`` does; leaving the block closes the tab.

        Args:
            states: ``"CounterState"``, ``"ProductState:42"``, already percent-encoded.
            last_event_id: what a client that comes back sends.
            headers: more headers.
            datastar: whether to say that Datastar asks.
        """
        sent = {"accept": "text/event-stream", **({"datastar-request": "true"} if datastar else {})}
        if last_event_id is not None:
            sent["last-event-id"] = last_event_id
        path = f"{self._mount_path}/sse?states={','.join(states)}"
        exchange = self._exchange("GET", path, {**sent, **(headers or {})}, b"")
        await exchange.start()
        self._keep_cookies(exchange)
        try:
            yield LiveStream(exchange)
        finally:
            await exchange.leave()

    def _exchange(self, method: str, path: str, headers: dict[str, str], body: bytes) -> _Exchange:
        path, _, query = path.partition("?")
        lowered = {name.lower(): value for name, value in headers.items()}
        if self.cookies and "cookie" not in lowered:
            lowered["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        lowered.setdefault("host", self._parts.netloc)
        if body:
            lowered["content-length"] = str(len(body))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": self._parts.scheme,
            "path": self._root_path + unquote(path),
            "raw_path": (self._root_path + path).encode(),
            "root_path": self._root_path,
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lowered.items()],
            "client": ("127.0.0.1", 50000),
            "server": (self._parts.hostname, self._parts.port or 80),
            "state": {},
        }
        return _Exchange(self.app, scope, body)

    def _keep_cookies(self, exchange: _Exchange) -> None:
        for name, value in exchange.raw_headers:
            if name.lower() != b"set-cookie":
                continue
            jar: SimpleCookie = SimpleCookie()
            jar.load(value.decode("latin-1"))
            for cookie, morsel in jar.items():
                if morsel["max-age"] == "0" or not morsel.value:
                    self.cookies.pop(cookie, None)
                else:
                    self.cookies[cookie] = morsel.value


def _encoded(
    document: Any, data: Mapping[str, Any] | None, files: Mapping[str, tuple[str, bytes, str]] | None
) -> tuple[str, bytes]:
    """Return content type and body."""
    if files is not None:
        return _multipart(data or {}, files)
    if data is not None:
        return "application/x-www-form-urlencoded", urlencode(data, doseq=True).encode()
    if document is not None:
        return "application/json", json.dumps(document).encode()
    return "", b""


def _multipart(data: Mapping[str, Any], files: Mapping[str, tuple[str, bytes, str]]) -> tuple[str, bytes]:
    boundary = secrets.token_hex(16)
    parts: list[bytes] = []
    for name, value in data.items():
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    for name, (filename, content, content_type) in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        parts.append(f"{head}Content-Type: {content_type}\r\n\r\n".encode() + content + b"\r\n")
    parts.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(parts)


@dataclass(slots=True)
class _Lifespan:
    """Runs an app's lifespan."""

    app: App
    _to_app: asyncio.Queue[dict[str, str]] = field(default_factory=asyncio.Queue[dict[str, str]])
    _from_app: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue[dict[str, Any]])
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the app; an app without a lifespan is fine."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        self._task = asyncio.get_running_loop().create_task(self.app(scope, self._to_app.get, self._from_app.put))
        await self._step("startup")

    async def stop(self) -> None:
        """Stop the app."""
        if self._task is not None and not self._task.done():
            await self._step("shutdown")
            async with asyncio.timeout(DEADLINE_S * 2):
                await self._task

    async def _step(self, phase: str) -> None:
        assert self._task is not None, "start() comes first"
        await self._to_app.put({"type": f"lifespan.{phase}"})
        answer = asyncio.get_running_loop().create_task(self._from_app.get())
        async with asyncio.timeout(DEADLINE_S * 2):
            await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            return
        message = answer.result()
        if message["type"].endswith(".failed"):
            raise RuntimeError(f"lifespan {phase} failed: {message.get('message', '')}")
