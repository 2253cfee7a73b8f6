"""The sub-application under ``mount_path``: events, stream, health and the local client script.

A Starlette app whose endpoints are plain ASGI callables; the middleware calls the same endpoints directly, because a
router, a request object and a response object would cost more than an event.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.routing import Route

from .context import RequestContext
from .current import current_context
from .dispatch import handle_event
from .errors import ConfigurationError
from .frames import SSE_HEADERS
from .guards import Guard
from .identity import check_guard
from .origins import check_origin
from .responses import JSON_HEADERS, PROBLEM_HEADERS, describe, header_items, problem_body, respond
from .streaming import Receive, StreamOpening, is_final

if TYPE_CHECKING:
    from .engine import FastState

Send = Callable[[dict[str, Any]], Awaitable[None]]
Endpoint = Callable[[Any, Receive, Send, str], Awaitable[None]]
STATS_GUARD = Guard(True, frozenset({"faststate.stats"}))


class LocalScript:
    """The Datastar client served from a file; read once, when the engine opens.

    Args:
        path: the file that ``datastar_url`` names.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._content: bytes | None = None
        self.digest = ""

    def content(self) -> bytes:
        """Return the file's bytes.

        Raises:
            ConfigurationError: there is no such file.
        """
        if self._content is None:
            try:
                self._content = self._path.read_bytes()
            except OSError as exc:
                raise ConfigurationError(
                    f"datastar_url names {self._path}, which cannot be read ({exc.strerror}); "
                    "give the path of a file, or an address that begins with https:// or /"
                ) from None
            self.digest = blake2b(self._content, digest_size=8).hexdigest()
        return self._content


class SubApp:
    """The endpoints, by path below ``mount_path``.

    Args:
        engine: what they serve.
    """

    def __init__(self, engine: FastState) -> None:
        self.engine = engine
        self._fixed: dict[str, Endpoint] = {
            "/sse": self._sse,
            "/health": self._health,
            "/stats": self._stats,
            "/metrics": self._metrics,
            "/datastar.js": self._script,
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send, path: str) -> None:
        """Answer the request for ``path``, which begins with a slash."""
        if path.startswith("/events/"):
            context = RequestContext(self.engine, scope, "event")
            await handle_event(self.engine, context, scope, receive, send, path[8:])
            return
        endpoint = self._fixed.get(path)
        if endpoint is None:
            problem = {"status": 404, "title": "Not found", "detail": "There is nothing at this address"}
            await respond(send, 404, PROBLEM_HEADERS, problem_body(problem))
        elif scope["method"] not in ("GET", "HEAD"):
            problem = {"status": 405, "title": "Method not allowed", "detail": "Use GET"}
            await respond(send, 405, [*PROBLEM_HEADERS, (b"allow", b"GET, HEAD")], problem_body(problem))
        else:
            await endpoint(scope, receive, send, path)

    # -- the stream --------------------------------------------------------------------------------------------------

    async def _sse(self, scope: Any, receive: Receive, send: Send, path: str) -> None:
        settings = self.engine.settings
        context = RequestContext(self.engine, scope, "stream")
        if scope["method"] == "HEAD":
            await respond(send, 200, SSE_HEADERS)
            return
        self.engine.chain_signals()  # the app may have opened the engine itself
        token = current_context.set(context)
        try:
            check_origin(scope, context.headers, settings.trusted_origins, settings.public_origins, is_read=False)
            opening = StreamOpening(self.engine, context, scope)
            stream = await opening.open(send)
        except Exception as exc:
            await self._refuse_stream(context, send, exc)
            return
        finally:
            current_context.reset(token)
        await opening.serve(stream, receive)

    async def _refuse_stream(self, context: RequestContext, send: Send, exc: Exception) -> None:
        """Refuse so that Datastar stops retrying where a retry cannot help, and others see the real status."""
        problem, extra = describe(exc, "stream", is_debug=self.engine.settings.debug)
        if is_final(exc) and context.header(b"datastar-request") == "true":
            patch = {"_faststate": {"error": problem, "connected": False, "live": ""}}
            await respond(send, 200, JSON_HEADERS, json.dumps(patch).encode())
        else:
            await respond(send, problem["status"], [*PROBLEM_HEADERS, *header_items(extra)], problem_body(problem))

    # -- around ------------------------------------------------------------------------------------------------------

    async def _health(self, scope: Any, receive: Receive, send: Send, path: str) -> None:
        report = await self.engine.health()
        # Who is overloaded still serves; taking it away would make it worse for the others.
        status = 200 if report["status"] in ("ok", "overloaded") else 503
        await respond(send, status, JSON_HEADERS, json.dumps(report).encode())

    async def _stats(self, scope: Any, receive: Receive, send: Send, path: str) -> None:
        if await self._may_see_stats(scope, send, "stats"):
            await respond(send, 200, JSON_HEADERS, json.dumps(await self.engine.stats()).encode())

    async def _metrics(self, scope: Any, receive: Receive, send: Send, path: str) -> None:
        if self.engine.settings.metrics_public or await self._may_see_stats(scope, send, "metrics"):
            content_type, body = await self.engine.metrics_page()
            await respond(send, 200, [(b"content-type", content_type.encode()), *JSON_HEADERS[1:]], body)

    async def _may_see_stats(self, scope: Any, send: Send, where: str) -> bool:
        """Let debug and holders of ``faststate.stats`` pass; answer everybody else."""
        if self.engine.settings.debug:
            return True
        try:
            context = await RequestContext(self.engine, scope, "stream").resolve()
            check_guard(STATS_GUARD, context.identity)
        except Exception as exc:
            problem, extra = describe(exc, where, is_debug=False)
            await respond(send, problem["status"], [*PROBLEM_HEADERS, *header_items(extra)], problem_body(problem))
            return False
        return True

    async def _script(self, scope: Any, receive: Receive, send: Send, path: str) -> None:
        script = self.engine.local_script
        if script is None:
            problem = {"status": 404, "title": "Not found", "detail": "Datastar comes from datastar_url here"}
            await respond(send, 404, PROBLEM_HEADERS, problem_body(problem))
            return
        body = script.content()
        is_pinned = script.digest.encode() in scope.get("query_string", b"")
        caching = b"public, max-age=31536000, immutable" if is_pinned else b"no-cache"
        headers = [
            (b"content-type", b"text/javascript; charset=utf-8"),
            (b"cache-control", caching),
            (b"x-content-type-options", b"nosniff"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


class _Mounted:
    """The endpoints as one ASGI app for Starlette's router."""

    def __init__(self, engine: FastState) -> None:
        self._engine = engine

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await self._engine.ensure_serving()
        path, mount_path = route_path(scope), self._engine.settings.mount_path
        # Starlette's Mount has added the place that the engine adds to every URL itself.
        outer = {**scope, "root_path": scope.get("root_path", "").removesuffix(mount_path)}
        await self._engine.subapp(outer, receive, send, path)


def route_path(scope: Any) -> str:
    """Return the path below ``root_path``."""
    path: str = scope["path"]
    root_path = scope.get("root_path", "").rstrip("/")
    if root_path and path.startswith(root_path) and path[len(root_path) :][:1] in ("", "/"):
        return path[len(root_path) :] or "/"
    return path


def faststate_app(engine: FastState) -> Starlette:
    """Return the sub-application as a Starlette app, to be mounted by hand at ``mount_path``."""
    return Starlette(routes=[Route("/{path:path}", _Mounted(engine), methods=None)])


def quoted_mount(root_path: str, mount_path: str) -> str:
    """Return where the sub-application is, for URLs in pages."""
    return quote(root_path.rstrip("/") + mount_path, safe="/")
