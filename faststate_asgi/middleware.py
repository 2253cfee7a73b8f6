"""``FastStateMiddleware``: puts a context into every request, serves the sub-application, and owns start and stop.

Pure ASGI. The lifespan of the inner app runs inside the engine's, and inner apps without one work too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, overload

from .checks import route_findings
from .context import RequestContext
from .current import current_context
from .dispatch import handle_event
from .engine import FastState
from .errors import ConfigurationError, FastStateError, shorten
from .responses import PROBLEM_HEADERS, describe, header_items, problem_body, respond
from .subapp import route_path

logger = logging.getLogger("faststate")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


class FastStateMiddleware:
    """Wraps any ASGI app.

    Args:
        app: the inner app.
        faststate: an engine to share; made from ``settings`` if None.
        settings: every setting of the README's table by name.

    Raises:
        ConfigurationError: a setting that cannot work, or no secret key.
    """

    @overload
    def __init__(self, app: App, /, faststate: FastState | None = None, **settings: Any) -> None: ...
    @overload
    def __init__(self, *, app: App, faststate: FastState | None = None, **settings: Any) -> None: ...
    # mypy takes Starlette's Middleware(FastStateMiddleware, ...) only if the app can stand without its name.
    def __init__(  # type: ignore[misc]  # nobody passes the app twice
        self, app: App, faststate: FastState | None = None, **settings: Any
    ) -> None:
        if faststate is not None and settings:
            raise ConfigurationError("give an engine or settings, not both")
        if not isinstance(faststate, (FastState, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]  # not everybody checks types
            raise ConfigurationError(f"the second argument is the engine, a FastState(...), not {shorten(faststate)}")
        self.app = app
        self.faststate = FastState(**settings) if faststate is None else faststate
        self.faststate.require_secret_key()
        self._mount_path = self.faststate.settings.mount_path
        self._is_serving = self.faststate.settings.serve
        self._events_path = f"{self._mount_path}/events/"

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind, engine = scope["type"], self.faststate
        if kind == "http":
            path = scope["path"]
            if (
                self._is_serving
                and path.startswith(self._events_path)
                and not scope.get("root_path")
                and engine.is_open_here()
            ):
                # The same as below, without the calls in between: this is where the load is.
                context = RequestContext(engine, scope, "event")
                await handle_event(engine, context, scope, receive, send, path[len(self._events_path) :])
            else:
                await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Any, receive: Receive, send: Send) -> None:
        engine = self.faststate
        if not engine.is_open_here():
            await engine.ensure_serving()
        if self._is_serving:
            path = route_path(scope) if scope.get("root_path") else scope["path"]
            if path.startswith(self._mount_path) and path[len(self._mount_path) :][:1] == "/":
                await engine.subapp(scope, receive, send, path[len(self._mount_path) :])
                return
        context = scope["faststate"] = RequestContext(engine, scope)
        token = current_context.set(context)

        is_hidden = False

        async def send_with_session(message: Any) -> None:
            nonlocal is_hidden
            if message["type"] == "http.response.start" and not context.is_started:
                if context.refused is not None and message["status"] == 500:
                    is_hidden = True
                    return
                added = context.response_headers(message.get("headers", ()))
                if added:
                    message = {**message, "headers": [*message.get("headers", ()), *added]}
            if not is_hidden:
                await send(message)

        try:
            await self.app(scope, receive, send_with_session)
            if is_hidden and context.refused is not None:
                raise context.refused
        except FastStateError as exc:
            if context.is_started:
                raise
            await self._refuse(exc, scope, context, send)
        finally:
            current_context.reset(token)
            # The scope refers to the context and the context to the scope: break the cycle, or every request
            # waits for the garbage collector.
            context.close()

    async def _refuse(self, exc: FastStateError, scope: Any, context: RequestContext, send: Send) -> None:
        """Answer an exception that the inner app let through."""
        problem, extra = describe(exc, scope["path"], is_debug=self.faststate.settings.debug)
        headers = [*PROBLEM_HEADERS, *header_items(extra), *context.response_headers(PROBLEM_HEADERS)]
        status = 303 if "Location" in extra else problem["status"]
        await respond(send, status, headers, problem_body(problem))

    async def _websocket(self, scope: Any, receive: Receive, send: Send) -> None:
        await self.faststate.ensure_serving()
        context = scope["faststate"] = RequestContext(self.faststate, scope, "stream")
        token = current_context.set(context)
        try:
            await self.app(scope, receive, send)
        finally:
            current_context.reset(token)
            context.close()

    # -- lifespan ----------------------------------------------------------------------------------------------------

    async def _lifespan(self, scope: Any, receive: Receive, send: Send) -> None:
        """Open the engine before the inner app starts, and close it after the inner app has stopped."""
        message = await receive()
        assert message["type"] == "lifespan.startup", "ASGI lifespan begins with startup"
        try:
            await self.faststate.__aenter__()
        except Exception as exc:
            logger.error("start-up failed: %s", exc)
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        self.faststate.chain_signals()
        inner = _InnerLifespan(self.app, scope)
        try:
            failure = await inner.startup()
            if failure is not None:
                await send({"type": "lifespan.startup.failed", "message": failure})
                return
            for finding in route_findings(self.app):
                logger.warning("%s", finding)
            self.faststate.settle_memory()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.faststate.drain()
            failure = await inner.shutdown()
        finally:
            await self.faststate.__aexit__(None, None, None)
        if failure is None:
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "lifespan.shutdown.failed", "message": failure})


class _InnerLifespan:
    """Drives the lifespan of the inner app in a task of its own; apps without one count as started.

    Args:
        app: the inner app.
        scope: of the outer lifespan.
    """

    def __init__(self, app: App, scope: Any) -> None:
        self._app, self._scope = app, scope
        self._to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> str | None:
        """Start the inner app; return why it failed, None if it did not."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        return await self._step("startup")

    async def shutdown(self) -> str | None:
        """Stop the inner app; return why it failed, None if it did not."""
        result = None
        if self._task is not None and not self._task.done():
            result = await self._step("shutdown")
            await asyncio.gather(self._task, return_exceptions=True)
        return result

    async def _run(self) -> None:
        await self._app(self._scope, self._to_app.get, self._from_app.put)

    async def _step(self, phase: str) -> str | None:
        """Send one message and wait for its answer, or for the app to leave."""
        assert self._task is not None, "startup() comes first"
        await self._to_app.put({"type": f"lifespan.{phase}"})
        answer = asyncio.get_running_loop().create_task(self._from_app.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            message = answer.result()
            return str(message.get("message", "")) or "failed" if message["type"].endswith(".failed") else None
        answer.cancel()
        # ASGI: an app that raises on lifespan does not support it.
        if not self._task.cancelled():
            self._task.exception()
        return None
