"""What does it cost to tell N open streams of one global state about one change?

`python -m benchmarks.fanout [--streams 500,1000,5000] [--seconds 1] [--rounds 6] [--quick]`
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks import plot, report
from benchmarks.load import BUSY_SHARE
from benchmarks.reader import Pacer, Publisher, Streams
from benchmarks.servers import Server, raise_file_limit, serving, take_load_core

MOUNT = "/faststate"
LEAST_BROADCASTS = 3
BROADCASTS_PER_S, EVENTS_PER_S = 2, 200
SPARE_FILES = 500
HEADINGS = (
    "streams",
    "variant",
    "deliveries/s",
    "of the floor",
    "CPU of the floor",
    "CPU us each",
    "p50 ms",
    "p99 ms",
    "event p50 ms",
    "event p99 ms",
    "KiB/stream",
    "bytes each",
    "reader",
    "uneven",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One server that fans out: its app, the paths of its streams, of what publishes, and of another event."""

    name: str
    app: str
    stream_path: str = "/"
    publish_path: str = "/publish"
    event_path: str = "/event"
    body: bytes = b"{}"


FLOOR = Variant("floor: bare uvloop", "benchmarks.bare")
PACKAGE = Variant(
    "faststate",
    "benchmarks.apps:app",
    f"{MOUNT}/sse?states=Board",
    f"{MOUNT}/events/Board/publish",
    f"{MOUNT}/events/GlobalCounter/increment_inline",
)
VARIANTS = (
    FLOOR,
    PACKAGE,
    Variant("ASGI, `send` stepped", "benchmarks.floor:fanout"),
    Variant("sse-starlette", "benchmarks.rivals:sse_starlette_streams"),
    Variant("Starlette + datastar_py", "benchmarks.rivals:starlette_streams"),
)


@dataclass(slots=True)
class Round:
    """What one round of one variant saw."""

    deliveries: int = 0
    broadcasts: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    server_cpu_s: float = 0.0
    reader_cpu_s: float = 0.0
    uneven: int = 0
    last_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Return deliveries per second."""
        return self.deliveries / self.seconds

    @property
    def cpu_us(self) -> float:
        """Return processor microseconds of the server for one delivery."""
        return self.server_cpu_s / max(self.deliveries, 1) * 1e6

    @property
    def reader_share(self) -> float:
        """Return the part of its core that the reader used."""
        return self.reader_cpu_s / self.seconds


@dataclass(slots=True)
class Opened:
    """A server with its open streams, and what each of them costs it in memory."""

    variant: Variant
    server: Server
    streams: Streams
    memory_per_stream: float
    rounds: list[Round] = field(default_factory=list)
    event_latencies_s: list[float] = field(default_factory=list)


def open_streams(variant: Variant, number: int, core: int, stack: ExitStack) -> Opened:
    """Start a server, open its streams, and weigh it before the first and after some broadcasts."""
    server = stack.enter_context(serving(variant.app, core))
    streams = Streams(server.port, variant.stream_path)
    stack.callback(streams.close)
    before = server.rss_bytes()
    streams.open(number)
    run_round(Opened(variant, server, streams, 0.0), seconds=0.0)
    return Opened(variant, server, streams, (server.rss_bytes() - before) / number)


def run_round(opened: Opened, seconds: float) -> Round:
    """Publish, wait until every stream has it, publish again, for this long (at least a few times)."""
    publisher = Publisher(opened.server.port, opened.variant.publish_path, body=opened.variant.body)
    seen = Round()
    opened.streams.forget_counts()
    reader_cpu, server_cpu, began = time.process_time(), opened.server.cpu_s(), time.monotonic()
    is_whole = True
    while is_whole and (seen.broadcasts < LEAST_BROADCASTS or time.monotonic() - began < seconds):
        is_whole = broadcast_once(publisher, opened.streams, seen)
    seen.seconds = time.monotonic() - began
    seen.server_cpu_s = opened.server.cpu_s() - server_cpu
    seen.reader_cpu_s = time.process_time() - reader_cpu
    seen.uneven = opened.streams.uneven(seen.broadcasts)
    publisher.close()
    return seen


def broadcast_once(publisher: Publisher, streams: Streams, seen: Round) -> bool:
    """Publish one change, read it from every stream, and say whether all of them got it."""
    one = streams.read_broadcast(publisher.publish())
    publisher.read_answer()
    seen.broadcasts += 1
    seen.deliveries += one.delivered
    seen.bytes_read += one.bytes_read
    seen.last_s.append(one.last_s)
    return one.delivered == len(streams.marks)


def run_beside(opened: Opened, seconds: float) -> list[float]:
    """Return the latencies of other events while every stream gets two broadcasts a second."""
    publisher = Publisher(opened.server.port, opened.variant.publish_path, body=opened.variant.body)
    pacer = Pacer(opened.server.port, opened.variant.event_path, EVENTS_PER_S)
    opened.streams.read_beside(pacer, seconds, publisher.publish, 1 / BROADCASTS_PER_S)
    opened.streams.settle()
    pacer.close()
    publisher.close()
    return pacer.latencies_s


def measure(
    number: int, variants: Sequence[Variant], core: int, rounds: int, seconds: float
) -> list[dict[str, object]]:
    """Measure the floor and some variants with the same number of streams, in rounds that take turns."""
    with ExitStack() as stack:
        opened = [open_streams(variant, number, core, stack) for variant in variants]
        for turn in range(rounds):
            for one in opened if turn % 2 == 0 else reversed(opened):
                one.rounds.append(run_round(one, seconds))
        for one in opened:
            one.event_latencies_s = run_beside(one, 3 * seconds)
    return [summary(number, one, opened[0].rounds) for one in opened]


def groups(variants: Sequence[Variant], number: int, files: int) -> list[list[Variant]]:
    """Return the variants in groups whose streams the reader may have open together, the floor in each."""
    size = max(1, (files - SPARE_FILES) // number - 1)
    others = [variant for variant in variants if variant is not FLOOR]
    return [[FLOOR, *others[at : at + size]] for at in range(0, len(others), size)]


def measure_all(
    numbers: Sequence[int], variants: Sequence[Variant], rounds: int, seconds: float
) -> list[dict[str, object]]:
    """Measure every variant with every number of streams; where the floor was measured twice, the first counts."""
    files, core = raise_file_limit(), take_load_core()
    figures: dict[tuple[object, object], dict[str, object]] = {}
    for number in numbers:
        for group in groups(variants, number, files):
            for one in measure(number, group, core, rounds, seconds):
                figures.setdefault((number, one["variant"]), one)
    return list(figures.values())


def summary(number: int, opened: Opened, floor: Sequence[Round]) -> dict[str, object]:
    """Return one variant's figures as they are written and shown."""
    seen = opened.rounds
    late = [one for each in seen for one in each.last_s]
    rates = [one.rate / other.rate for one, other in zip(seen, floor, strict=True)]
    costs = [other.cpu_us / one.cpu_us for one, other in zip(seen, floor, strict=True)]
    return {
        "streams": number,
        "variant": opened.variant.name,
        "deliveries_per_s": round(statistics.median(one.rate for one in seen)),
        "of_the_floor": round(statistics.median(rates), 3),
        "cpu_of_the_floor": round(statistics.median(costs), 3),
        "cpu_us_per_delivery": round(statistics.median(one.cpu_us for one in seen), 2),
        "p50_ms": round(report.quantile(late, 0.5) * 1e3, 1),
        "p99_ms": round(report.quantile(late, 0.99) * 1e3, 1),
        "event_p50_ms": round(report.quantile(opened.event_latencies_s, 0.5) * 1e3, 1),
        "event_p99_ms": round(report.quantile(opened.event_latencies_s, 0.99) * 1e3, 1),
        "kib_per_stream": round(opened.memory_per_stream / 1024, 1),
        "bytes_per_delivery": round(sum(s.bytes_read for s in seen) / sum(s.deliveries for s in seen)),
        "reader_share": round(max(one.reader_share for one in seen), 2),
        "uneven": sum(one.uneven for one in seen),
        "broadcasts": sum(one.broadcasts for one in seen),
        "is_reader_bound": any(one.reader_share > BUSY_SHARE for one in seen),
    }


def row(figures: dict[str, object]) -> list[object]:
    """Return the cells of one line of the table."""
    reader = f"{figures['reader_share']}{' (bound)' if figures['is_reader_bound'] else ''}"
    cells = [value for name, value in figures.items() if name not in ("broadcasts", "is_reader_bound")]
    cells[-2] = reader
    return cells


def growth(figures: Sequence[dict[str, object]]) -> dict[str, float]:
    """Return, for each variant, the cost of a delivery with the most streams over that with the fewest."""
    grown = {}
    for name in dict.fromkeys(str(one["variant"]) for one in figures):
        costs = [float(str(one["cpu_us_per_delivery"])) for one in figures if one["variant"] == name]
        grown[name] = round(costs[-1] / costs[0], 2) if costs and costs[0] else math.nan
    return grown


def parse_arguments() -> argparse.Namespace:
    """Read the command line; `--quick` is 500 and 1 000 streams in four short rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="500,1000,5000", help="numbers of open streams, in rising order")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of one variant in one round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="500 and 1000 streams, four short rounds")
    parser.add_argument("--no-file", action="store_true", help="print only, write no result file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.streams, arguments.seconds, arguments.rounds = "500,1000", 0.4, 4
    return arguments


def run(
    question: str, variants: Sequence[Variant], arguments: argparse.Namespace, environment: dict[str, object]
) -> None:
    """Measure, print the table, write the file and the plot."""
    numbers = [int(number) for number in arguments.streams.split(",")]
    figures = measure_all(numbers, variants, arguments.rounds, arguments.seconds)
    print(report.table(HEADINGS, [row(one) for one in figures]))
    print(f"cost per delivery, most streams over fewest: {growth(figures)}")
    if not arguments.no_file:
        bars = plot.bars(f"Deliveries/s to {numbers[-1]} open streams", plotted(figures, numbers[-1]))
        report.write_result(question, environment, {"variants": figures, "growth": growth(figures)}, bars)


def plotted(figures: Sequence[dict[str, object]], number: int) -> list[tuple[str, float, str]]:
    """Return the rows of the plot."""
    return [
        (
            str(one["variant"]),
            float(str(one["deliveries_per_s"])),
            f"{one['deliveries_per_s']}, {one['kib_per_stream']} KiB",
        )
        for one in figures
        if one["streams"] == number
    ]


def main() -> None:
    """Run what the command line asks for."""
    run("fanout", VARIANTS, parse_arguments(), report.environment())


if __name__ == "__main__":
    main()
