"""The event endpoint: from an ASGI request to an ``EventRequest``, and from its outcome to an ASGI response.

Raw ASGI, because a ``Request`` and a ``Response`` would cost more than the event itself. Gates come first: origin,
session, rights, rate and size, all before the body is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import frames
from .context import RequestContext
from .current import current_context
from .errors import AuthenticationError, AuthorizationError, OverloadedError, RateLimitedError, RequestError
from .event_answers import NO_STORE
from .event_request import NOTHING, EventRequest
from .generators import StreamedCall
from .incoming import Incoming, Receive, read_incoming
from .origins import check_origin
from .responses import PROBLEM_HEADERS, WITHOUT_BODY, Send, describe, problem_body, respond
from .routes import Route, find_route
from .steps import OTHERS_FIRST
from .stores.base import Answer

if TYPE_CHECKING:
    from .engine import FastState


async def handle_event(
    engine: FastState, context: RequestContext, scope: Any, receive: Receive, send: Send, path: str
) -> None:
    """Answer one request below ``/events/``."""
    method, registry = scope["method"], engine.registry
    path_params: dict[str, Any] | None = None
    route: Route | None = registry.found.get((method, path))
    if route is None:
        found = find_route(registry, method, path)
        if isinstance(found, set):
            await _refuse_route(send, found)
            return
        route, path_params = found
    if path_params:
        context.path_params = path_params
    headers, settings = context.headers, engine.settings
    if headers.get(b"sec-fetch-site") != b"same-origin":
        try:
            check_origin(scope, headers, settings.trusted_origins, settings.public_origins, is_read=method == "GET")
        except AuthorizationError as exc:
            problem, _ = describe(exc, path, is_debug=False)
            await respond(send, 403, PROBLEM_HEADERS, problem_body(problem))
            return
    token = current_context.set(context)
    request = EventRequest(engine, context, scope, route, path_params)
    try:
        try:
            runtime = engine.runtime
            if runtime.is_draining:
                raise OverloadedError("The server is restarting; please try again", headers={"Retry-After": "1"})
            later = context.resolve_now()
            if later is not None:
                await later
            try:
                request.pass_gates()
            except RateLimitedError:
                if not await runtime.is_known(request):
                    raise
            incoming = _incoming(request, receive)
            request.take(incoming if isinstance(incoming, Incoming) else await incoming)
            if route.is_generator:
                await _send_stream(request, await runtime.stream(request), receive, send)
                return
            outcome = runtime.run(request)
            answer = outcome if isinstance(outcome, Answer) else await outcome
        except Exception as exc:
            first = await _refused(request, receive, exc)
            if isinstance(first, StreamedCall):
                await _send_stream(request, first, receive, send)
                return
            answer = first
        if answer.body is None:
            if request.raw is not None:
                await request.send_raw(receive, send)
                return
            answer = await request.without_body(answer)
        start, body = messages_of(answer)
        # What else is ready runs first, and then all are answered: a processor that goes back and forth between events
        # and the system's calls of their answers runs both at half its speed.
        await OTHERS_FIRST
        await send(start)
        await send(body)
        if request.background is not None:
            await request.background()
    finally:
        current_context.reset(token)
        if request.incoming.form is not None:
            await request.incoming.aclose()


def _incoming(request: EventRequest, receive: Receive) -> Incoming | Awaitable[Incoming]:
    """Return the data of a request, or what waits for them."""
    settings, scope = request.engine.settings, request.scope
    return read_incoming(
        receive,
        request.context.headers,
        scope["method"],
        scope.get("query_string", b""),
        settings.max_body,
        settings.max_file,
    )


async def _refused(request: EventRequest, receive: Receive, exc: Exception) -> Answer | StreamedCall:
    """Return the answer of a request that may not run."""
    try:
        if isinstance(exc, (AuthenticationError, AuthorizationError)):
            first = await _first_of_old_cookie(request, receive)
            if first is not None:
                return first
    except Exception as another:
        return request.failed(another)
    return request.failed(exc)


async def _first_of_old_cookie(request: EventRequest, receive: Receive) -> Answer | StreamedCall | None:
    """Return what a click is answered that logs out: its repetition is refused, because the cookie is worthless."""
    engine, context = request.engine, request.context
    if context.presented_id is None or request.idempotency_key is None or not context.is_presented_revoked:
        return None
    request.names = (f"{context.presented_id}{request.route.tail}{request.idempotency_key}",)
    request.typed = None  # which of the tab's requests is newest tells nothing here

    async def read() -> None:
        if request.incoming is NOTHING:
            incoming = _incoming(request, receive)
            incoming = incoming if isinstance(incoming, Incoming) else await incoming
            with suppress(RequestError):  # its digest is all that is asked for
                request.take(incoming)

    return await engine.runtime.first_of(request, read)


def messages_of(answer: Answer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an answer as ASGI messages; of one that was too large to remember only the outcome is left."""
    _, status, remembered, body = answer
    if body is None:
        body = b""
        if status == 200:
            status, remembered = 204, (NO_STORE, *(item for item in remembered if item[0] == b"set-cookie"))
    headers = [*remembered]
    if status in WITHOUT_BODY:
        body = b""
    else:
        headers.append((b"content-length", b"%d" % len(body)))
    start = {"type": "http.response.start", "status": status, "headers": headers}
    return start, {"type": "http.response.body", "body": body}


async def _send_stream(request: EventRequest, streamed: StreamedCall, receive: Receive, send: Send) -> None:
    """Send a generator's bodies as they come; a client that leaves interrupts nothing."""
    streamed.readers += 1
    gone = asyncio.get_running_loop().create_task(_until_gone(receive))
    is_started = False
    bodies = streamed.read()
    try:
        while True:
            following = asyncio.ensure_future(anext(bodies, None))
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                return
            body = following.result()
            if body is None and not is_started and streamed.failure is not None:
                answer = streamed.failure
                for message in messages_of(answer if answer.body is not None else await request.without_body(answer)):
                    await send(message)
                return
            if not is_started:
                headers = streamed.headers or frames.SSE_HEADERS
                await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
                is_started = True
            if body is None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            await send({"type": "http.response.body", "body": body, "more_body": True})
    finally:
        streamed.readers -= 1
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse_route(send: Send, methods: set[str]) -> None:
    """Answer 404 or, where there are events of other methods, 405; the same for every client."""
    if not methods:
        problem = {"status": 404, "title": "Not found", "detail": "There is no such event"}
        await respond(send, 404, PROBLEM_HEADERS, problem_body(problem))
        return
    allowed = ", ".join(sorted(methods))
    problem = {"status": 405, "title": "Method not allowed", "detail": f"Use {allowed}"}
    await respond(send, 405, [*PROBLEM_HEADERS, (b"allow", allowed.encode())], problem_body(problem))
