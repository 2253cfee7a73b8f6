"""Does anything get lost, or grow, in a long time full of faults?

Two servers on one Redis, many streams, a steady rain of clicks, and a fault every few seconds: a server is killed,
stopped in order, put to sleep, its streams are cut, Redis pauses, its subscribers are thrown out. In the end every
acknowledged click counts exactly once, every page shows that number, and what the servers hold is what they held.

    python -m benchmarks.soak --seconds 900 --streams 1000 --rate 50 --fault-every 5
"""

import argparse
import asyncio
import os
import random
import re
import signal
import statistics
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

from benchmarks.report import environment, write_result
from benchmarks.servers import raise_file_limit
from faststate_asgi.testing.sse import FrameReader, apply
from tests import services
from tests.apps.shared_clients import APP, Clicker, new_client, settings_of

TROUBLE = re.compile(r"Task was destroyed|never awaited|exception was never retrieved|Traceback|ResourceWarning")
SETTINGS = {"resync_interval": 2, "lease": 2, "idempotency_ttl": 20, "drain_timeout": 5}
SETTLE_S = 60.0
CLICKERS = 10


class Page:
    """One tab without a browser: reads its stream, and opens it again whenever it ends."""

    def __init__(self, ports: list[int], number: int) -> None:
        self.ports, self.number = ports, number
        self.signals: dict[str, Any] = {}
        self.opened = 0
        self.went_back = 0
        self.writer: asyncio.StreamWriter | None = None

    @property
    def count(self) -> int:
        """What the page shows."""
        return int(self.signals.get("Counter", {}).get("count", -1))

    async def stay(self) -> None:
        """Read for ever."""
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._read(self.ports[(self.number + self.opened) % len(self.ports)])
            await asyncio.sleep(random.uniform(0.2, 2))

    async def _read(self, port: int) -> None:
        reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            self.writer.write(f"GET /faststate/sse?states=Counter HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n")[0]:
                return
            self.opened += 1
            frames = FrameReader()
            while size := int(await reader.readline() or b"0", 16):
                chunk = await reader.readexactly(size + 2)
                for frame in frames.feed(chunk[:-2]):
                    before = self.count
                    apply(self.signals, frame)
                    self.went_back += self.count < before
        finally:
            self.writer.transport.abort()


class Site:
    """Two servers in fixed places; each may be ended and started again."""

    def __init__(self, env: dict[str, str], stack: ExitStack) -> None:
        self.env, self.stack = env, stack
        self.servers: list[services.SiteServer] = []
        self.trouble: list[str] = []

    def start(self, port: int | None = None) -> services.SiteServer:
        """Start one server."""
        return self.stack.enter_context(services.site_running(APP, env=self.env, port=port))

    def examine(self, server: services.SiteServer) -> None:
        """Keep what a server's log should not hold."""
        self.trouble += [line for line in server.log.splitlines() if TROUBLE.search(line)]

    async def replace(self, index: int, *, is_killed: bool) -> None:
        """End one server, and start another in its place."""
        old = self.servers[index]
        old.kill() if is_killed else old.terminate()
        await asyncio.to_thread(old.wait, 30)
        self.examine(old)
        self.servers[index] = await asyncio.to_thread(self.start, old.port)


async def fault(kind: str, site: Site, redis: services.RedisServer, pages: list[Page]) -> None:
    """Let one thing go wrong."""
    index = random.randrange(len(site.servers))
    match kind:
        case "kill":
            await site.replace(index, is_killed=True)
        case "stop":
            await site.replace(index, is_killed=False)
        case "sleep":
            os.kill(site.servers[index].pid, signal.SIGSTOP)
            await asyncio.sleep(1)
            os.kill(site.servers[index].pid, signal.SIGCONT)
        case "cut":
            for page in random.sample(pages, max(1, len(pages) // 5)):
                if page.writer is not None:
                    page.writer.transport.abort()
        case "pause":
            await asyncio.to_thread(redis.command, "CLIENT", "PAUSE", "1000")
        case _:
            await asyncio.to_thread(redis.command, "CLIENT", "KILL", "TYPE", "pubsub")


FAULTS = ("cut", "kill", "pause", "unsubscribe", "stop", "sleep")


async def sample(site: Site, redis: services.RedisServer) -> dict[str, int]:
    """Return what is held now; the highest of both servers."""
    found: dict[str, int] = {}
    async with new_client() as client:
        for server in site.servers:
            stats = (await client.get(f"{server.url}/faststate/stats")).json()
            numbers = {
                "tasks": int((await client.get(f"{server.url}/tasks")).text),
                "files": len(os.listdir(f"/proc/{server.pid}/fd")),
                "streams": stats["streams"],
                "watched": stats["watched_states"],
            }
            for name, value in numbers.items():
                found[name] = found.get(name, 0) + value
    clients = await asyncio.to_thread(redis.command, "INFO", "clients")
    found["redis clients"] = int(clients.split(b"connected_clients:")[1].split()[0])
    # Commit ids and answers go by themselves, so that their number follows the rate of clicks; the rest must not grow.
    space = (await asyncio.to_thread(redis.command, "INFO", "keyspace")).decode()
    keys, expiring = (int(re.findall(rf"{name}=(\d+)", space)[0]) for name in ("keys", "expires"))
    found["redis keys that stay"] = keys - expiring
    return found


async def soak(seconds: float, streams: int, rate: float, fault_every: float) -> dict[str, Any]:
    """Run it, and return what was seen."""
    with ExitStack() as stack:
        redis = stack.enter_context(services.redis_running())
        site = Site(settings_of(redis.url, **SETTINGS) | {"PYTHONWARNINGS": "default"}, stack)
        site.servers = [site.start() for _ in range(2)]
        ports = [server.port for server in site.servers]
        urls = [server.url for server in site.servers]
        pages = [Page(ports, number) for number in range(streams)]
        tasks = [asyncio.create_task(page.stay()) for page in pages]
        people = [Clicker(lambda: urls) for _ in range(CLICKERS)]
        ends_at, samples, done, faults = time.monotonic() + seconds, [], [0] * CLICKERS, dict.fromkeys(FAULTS, 0)

        async def click(number: int) -> None:
            due = time.monotonic()
            while time.monotonic() < ends_at:
                await people[number].click("Counter/bump")
                done[number] += 1
                due += CLICKERS / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

        async def break_things() -> None:
            number = 0
            while time.monotonic() < ends_at - fault_every:
                await asyncio.sleep(fault_every)
                kind = FAULTS[number % len(FAULTS)]
                await fault(kind, site, redis, pages)
                faults[kind] += 1
                number += 1
                if number % len(FAULTS) == 1:
                    with suppress(OSError, ValueError, KeyError):
                        samples.append(await sample(site, redis))

        await asyncio.gather(break_things(), *(click(number) for number in range(CLICKERS)))
        clicks = sum(done)
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline and any(page.count != clicks for page in pages):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        settled_s = SETTLE_S - (deadline - time.monotonic())
        samples.append(await sample(site, redis))
        wrong = sum(page.count != clicks for page in pages)
        async with new_client() as client:
            final = await client.post(f"{urls[0]}/faststate/events/Counter/bump")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for person in people:
            await person.client.aclose()
        for server in site.servers:
            server.terminate()
            await asyncio.to_thread(server.wait, 30)
            site.examine(server)
        third = max(1, len(samples) // 3)
        return {
            "clicks acknowledged": clicks,
            "count stored": int(final.text.split('"count":')[1].split("}")[0]) - 1,
            "clicks sent again": sum(person.repeats for person in people),
            "slowest click s": round(max(person.slowest_s for person in people), 2),
            "streams opened": sum(page.opened for page in pages),
            "pages that went back": sum(page.went_back for page in pages),
            "pages that are wrong": wrong,
            "settled after s": round(settled_s, 1),
            "faults": faults,
            "held at first": _typical(samples[:third]),
            "held at last": _typical(samples[-third:]),
            "trouble in logs": site.trouble[:20],
        }


def _typical(samples: list[dict[str, int]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in samples) for name in samples[0]}


def verdict(seen: dict[str, Any]) -> list[str]:
    """Return what is not as it must be."""
    bad = []
    if seen["clicks acknowledged"] != seen["count stored"]:
        bad.append("clicks were lost or counted twice")
    if seen["pages that are wrong"] or seen["pages that went back"]:
        bad.append("pages were wrong")
    if seen["trouble in logs"]:
        bad.append("the logs hold trouble")
    for name, value in seen["held at last"].items():
        if name != "streams" and value > 1.5 * seen["held at first"][name] + 50:
            bad.append(f"{name} grew from {seen['held at first'][name]} to {value}")
    return bad


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--fault-every", type=float, default=5)
    parser.add_argument("--quick", action="store_true", help="60 seconds, 100 streams")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.streams = 60, 100
    raise_file_limit()
    seen = asyncio.run(soak(options.seconds, options.streams, options.rate, options.fault_every))
    seen["verdict"] = verdict(seen) or "as it must be"
    for name, value in seen.items():
        print(f"{name}: {value}")
    if not options.quick:
        write_result("soak", environment(), {"options": vars(options), "seen": seen})
    return 0 if seen["verdict"] == "as it must be" else 1


if __name__ == "__main__":
    sys.exit(main())
