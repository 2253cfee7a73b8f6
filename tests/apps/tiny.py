"""The smallest ASGI app: it answers with its process id, its lifespan and a variable of its environment."""

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

lifespan_log: list[str] = []


async def app(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Answers HTTP with JSON and follows the lifespan protocol."""
    if scope["type"] == "lifespan":
        await follow_lifespan(receive, send)
        return
    answer = {"pid": os.getpid(), "lifespan": lifespan_log, "greeting": os.environ.get("GREETING")}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


async def follow_lifespan(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Remembers the start, and prints a line when the server shuts down in order."""
    await receive()
    lifespan_log.append("started")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("shut down in order", flush=True)
    await send({"type": "lifespan.shutdown.complete"})
