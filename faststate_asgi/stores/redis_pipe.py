"""One round trip for all that is asked of Redis in one turn of the event loop."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# redis-py types its commands in part only.
from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

from redis.asyncio import Redis

MAX_COMMANDS = 64
CLOSE_S = 1.0
Waiting: TypeAlias = "tuple[asyncio.Future[Any], tuple[Any, ...]]"


class Pipe:
    """Collects the commands of a turn and sends them over one connection; each gets its own reply or error.

    A connection that breaks fails all that were under way on it. Lives as long as the client.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._waiting: list[Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, *command: Any) -> asyncio.Future[Any]:
        """Send a command at the end of this turn; what it returns is the reply."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)
        self._waiting.append((reply, command))
        return reply

    async def aclose(self) -> None:
        """Send what waits, and wait a moment for what is under way, before its connections are closed."""
        self._send()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for at in range(0, len(waiting), MAX_COMMANDS):
            task = asyncio.get_running_loop().create_task(self._exchange(waiting[at : at + MAX_COMMANDS]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _exchange(self, waiting: list[Waiting]) -> None:
        replies: list[Any]
        try:
            if len(waiting) == 1:
                client: Any = self._client
                replies = [await client.execute_command(*waiting[0][1])]
            else:
                async with self._client.pipeline(transaction=False) as pipeline:
                    for _, command in waiting:
                        pipeline.execute_command(*command)
                    replies = await pipeline.execute(raise_on_error=False)
        except Exception as exc:
            replies = [exc] * len(waiting)
        except BaseException:
            for reply, _ in waiting:
                reply.cancel()
            raise
        for (reply, _), result in zip(waiting, replies, strict=True):
            if reply.done():
                continue
            if isinstance(result, Exception):
                reply.set_exception(result)
            else:
                reply.set_result(result)
