"""What does a store cost: one key that everybody changes, and a key for each, as ratios to memory in the same run?

`python -m benchmarks.stores [--seconds 3] [--rounds 5] [--quick] [--only TEXT]`
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import plot, report, rounds
from benchmarks.events import EVENTS, FASTHTML, PACKAGE, STARLETTE
from benchmarks.load import Measurement
from benchmarks.rounds import FLOOR, Variant, lost_events, measure_one, median_ratio
from benchmarks.servers import Server, free_port, serving, take_load_core
from tests.services import Running, await_ready, http_answers, postgres_running, redis_running, spawn

DELAY_MS = 1.0
MEMORY, DELAYED = "memory", f"redis + {DELAY_MS:g} ms"
STORES = (MEMORY, "sqlite", "redis", DELAYED, "postgres")
LOADS = (
    ("hot key", f"{EVENTS}/GlobalCounter/increment_async", "global"),
    ("32 keys", f"{EVENTS}/SessionCounter/increment_async", "session"),
)
# What has no store: the floor, and packages that keep a number in memory.
PLAIN = {
    "floor": FLOOR,
    "Starlette + datastar_py": Variant("32 keys", STARLETTE, "/increment"),
    "FastHTML + datastar_py": Variant("32 keys", FASTHTML, "/increment"),
}
HEADINGS = (
    "variant",
    "events/s",
    "of the floor",
    "of memory",
    "of redis",
    "CPU us",
    "p50 us",
    "p99 us",
    "generator",
    "failed",
    "lost",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    store: str
    load: Variant

    @property
    def name(self) -> str:
        """What the row is called."""
        return self.store if self.store in PLAIN else f"{self.store}, {self.load.name}"


def accepts(port: int) -> bool:
    """Return whether something listens."""
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    return True


@contextmanager
def delayed(port: int, folder: Path) -> Iterator[int]:
    """Yield the port of a proxy that delays what it is told, on this process's core."""
    own = free_port()
    command = [sys.executable, "-m", "benchmarks.delay", "--port", str(own), "--target", str(port)]
    command += ["--delay-ms", str(DELAY_MS)]
    proxy = Running(spawn(command, folder / "delay.log", cwd=report.ROOT), own, folder / "delay.log")
    try:
        await_ready(proxy, lambda: accepts(own))
        yield own
    finally:
        proxy.stop()


def addresses(stack: ExitStack, stores: Sequence[str], folder: Path) -> dict[str, str]:
    """Start what the stores need, on this process's core, and return their addresses."""
    found = {MEMORY: "memory:", "sqlite": f"sqlite+aiosqlite:///{folder}/bench.db"}
    if any(store.startswith("redis") for store in stores):
        redis = stack.enter_context(redis_running())
        found["redis"] = redis.url
        if DELAYED in stores:
            port = stack.enter_context(delayed(redis.port, folder))
            found[DELAYED] = f"redis://127.0.0.1:{port}/1"
    if "postgres" in stores:
        found["postgres"] = stack.enter_context(postgres_running()).url
    return {store: found[store] for store in stores}


@contextmanager
def serving_on(url: str, core: int) -> Iterator[Server]:
    """Serve the counters on one store, whose tables are made first."""
    os.environ["FASTSTATE_STORE"] = url
    try:
        if url.startswith(("sqlite", "postgresql")):
            command = [sys.executable, "-m", "faststate_asgi", "create-tables"]
            subprocess.run(command, cwd=report.ROOT, check=True, capture_output=True)
        with serving(PACKAGE, core) as server:
            http_answers(f"http://127.0.0.1:{server.port}/faststate/health")
            yield server
    finally:
        os.environ.pop("FASTSTATE_STORE", None)


def run_rounds(cases: Sequence[Case], number: int, seconds: float, connections: int) -> dict[str, list[Measurement]]:
    """Measure every case in so many rounds, each round beginning with another one."""
    seen: dict[str, list[Measurement]] = {case.name: [] for case in cases}
    with ExitStack() as stack:
        core = take_load_core()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        urls = addresses(stack, list(dict.fromkeys(case.store for case in cases if case.store not in PLAIN)), folder)
        servers = {store: stack.enter_context(serving_on(url, core)) for store, url in urls.items()}
        servers |= {name: stack.enter_context(serving(one.app, core)) for name, one in PLAIN.items()}
        for begin in range(number):
            turn = begin % len(cases)
            for case in [*cases[turn:], *cases[:turn]]:
                seen[case.name].append(measure_one(case.load, servers[case.store], seconds, connections))
    return seen


def summary(case: Case, seen: Mapping[str, list[Measurement]]) -> dict[str, object]:
    """Return one case's figures as they are written and shown."""
    own = seen[case.name]
    rates = [one.rate for one in own]

    def ratio_to(store: str) -> float | None:
        others = None if case.store in PLAIN and store != "floor" else seen.get(Case(store, case.load).name)
        return None if others is None else round(median_ratio(rates, [one.rate for one in others]), 3)

    lost = [lost_events(case.load, one) for one in own]
    return {
        "variant": case.name,
        "events_per_s": round(statistics.median(rates)),
        "of_the_floor": ratio_to("floor"),
        "of_memory": ratio_to(MEMORY),
        "of_redis": ratio_to("redis"),
        "server_cpu_us": round(statistics.median(one.server_cpu_us for one in own), 1),
        "p50_us": round(statistics.median(one.latency_us(0.5) for one in own)),
        "p99_us": round(statistics.median(one.latency_us(0.99) for one in own)),
        "generator_share": round(max(one.generator_share for one in own), 2),
        "failures": sum(one.failures for one in own),
        "lost": None if None in lost else sum(one or 0 for one in lost),
    }


def main() -> None:
    """Run, print the table and write the file."""
    arguments, before = rounds.parse_arguments(__doc__), report.environment()
    stores = [store for store in STORES if store == MEMORY or arguments.only in store]
    cases = [Case(name, load) for name, load in PLAIN.items()]
    cases += [Case(store, Variant(name, PACKAGE, path, counter)) for store in stores for name, path, counter in LOADS]
    seen = run_rounds(cases, arguments.rounds, arguments.seconds, arguments.connections)
    figures = [summary(case, seen) for case in cases]
    print(report.table(HEADINGS, [["-" if value is None else value for value in one.values()] for one in figures]))
    if not arguments.no_file:
        content = {"connections": arguments.connections, "delay_ms": DELAY_MS, "variants": figures}
        shown = [(str(one["variant"]), float(str(one["events_per_s"])), f"{one['events_per_s']}") for one in figures]
        report.write_result("stores", before, content, plot.bars("Events/s, one server core", shown, own=STORES))


if __name__ == "__main__":
    main()
