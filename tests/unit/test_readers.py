"""What is asked of a connection that may be gone already."""

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from faststate_asgi.readers import bound_backlog, silent_for


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_connection_that_is_closed_is_asked_without_an_error(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def ask(address: tuple[str, int]) -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, *address)
        for _ in range(2):
            bound_backlog(transport)
            assert silent_for(transport) == 0.0
            transport.abort()
            await asyncio.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(ask(listening.getsockname()))
