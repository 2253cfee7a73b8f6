"""A TCP proxy that adds a delay to everything a client sends: what a network between the site and its store costs.

Run as a module: `python -m benchmarks.delay --port 7000 --target 6379 --delay-ms 1`.
"""

import argparse
import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import uvloop

CHUNK_BYTES = 1 << 16


async def carry(reader: asyncio.StreamReader, deliver: Callable[[bytes], None], delay_s: float) -> None:
    """Hand over what comes in, each piece after the delay and in order, until the sender ends."""
    loop = asyncio.get_running_loop()
    while piece := await reader.read(CHUNK_BYTES):
        if delay_s:
            loop.call_later(delay_s, deliver, piece)
        else:
            deliver(piece)


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int, delay_s: float) -> None:
    """Connect one client with the target; requests wait, answers do not."""
    with suppress(OSError):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        ways = [
            asyncio.create_task(carry(reader, far_writer.write, delay_s)),
            asyncio.create_task(carry(far_reader, writer.write, 0)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        far_writer.close()
    writer.close()


async def serve(port: int, target: int, delay_s: float) -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(partial(serve_one, target=target, delay_s=delay_s), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, default=1.0)
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        uvloop.run(serve(arguments.port, arguments.target, arguments.delay_ms / 1000))


if __name__ == "__main__":
    main()
