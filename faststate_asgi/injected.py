"""What a handler is given besides the data of its request: other states, database sessions, the request itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from .errors import AuthenticationError, AuthorizationError
from .parameters import Injected, Source
from .signals import Signals
from .state import ReactiveState
from .turns import Turn

if TYPE_CHECKING:
    from .event_request import EventRequest


async def injected_values(request: EventRequest, turn: Turn) -> dict[str, Any]:
    """Return all injected values by the names of their parameters."""
    result: dict[str, Any] = {}
    for item in request.route.injected:
        match item.source:
            case Source.WRITABLE:
                result[item.name] = _writable(request, turn, item)
            case Source.STATE:
                assert item.state is not None, "state parameters name a state"
                getter = request.context.get_or_none if item.is_optional else request.context.get
                result[item.name] = await getter(item.state)
            case Source.DATABASE | Source.ASYNC_DATABASE:
                if turn.session is None:
                    is_async = item.source is Source.ASYNC_DATABASE
                    turn.session = request.engine.database_session(is_async=is_async)
                result[item.name] = turn.session.for_handler
            case _:
                result[item.name] = simple_value(request, item.source)
    return result


def _writable(request: EventRequest, turn: Turn, item: Injected) -> ReactiveState | None:
    """Return a state that changes together with the event's own; None for an optional one that was refused."""
    with suppress(AuthenticationError, AuthorizationError):
        _, key = request.joined_state(item)
        entry = turn.entries.get(key)
        if entry is not None:
            return entry.state
    return None


def simple_value(request: EventRequest, source: Source) -> Any:
    """Return an injected value that needs no waiting."""
    match source:
        case Source.REQUEST:
            return _request_of(request)
        case Source.IDENTITY:
            return request.context.identity
        case Source.CONTEXT:
            request.lend_claim()
            return request.context
        case Source.SIGNALS:
            return Signals(request.incoming.signals)
        case Source.KEY:
            return request.key
        case Source.AUTH:
            return request.context.auth
        case _:
            return request.scope.get("session", {})


def _request_of(request: EventRequest) -> Request:
    """Return the request; what was read of its body can be read again, but for uploads only as a form."""
    body = request.incoming.body
    request.lend_claim()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    made = Request({**request.scope, "faststate": request.context}, receive)
    if request.incoming.form is not None:
        made._form = request.incoming.form  # pyright: ignore[reportPrivateUsage]  # parsed already
    return made
