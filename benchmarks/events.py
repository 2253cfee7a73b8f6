"""How many events per second does one core serve, and what part of the raw floor is that?

`python -m benchmarks.events [--seconds 3] [--rounds 5] [--quick] [--rivals] [--only TEXT]`
"""

import argparse
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import plot, report
from benchmarks.load import Measurement, Target, measure
from benchmarks.servers import Server, serving, take_load_core

FLOOR = "floor"
OWN = ("async", "inline", "thread")
PACKAGE = "benchmarks.apps:app"
EVENTS = "/faststate/events"
HEADINGS = (
    "variant",
    "events/s",
    "of the floor",
    "CPU of the floor",
    "CPU us",
    "p50 us",
    "p99 us",
    "generator",
    "failed",
    "lost",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table: which app, which path, and whose counter its answers show."""

    name: str
    app: str
    path: str
    counter: str = "none"
    is_rival: bool = False


VARIANTS = (
    Variant(FLOOR, "benchmarks.floor:events", "/"),
    Variant("async, session", PACKAGE, f"{EVENTS}/SessionCounter/increment_async", "session"),
    Variant("inline, session", PACKAGE, f"{EVENTS}/SessionCounter/increment_inline", "session"),
    Variant("thread, session", PACKAGE, f"{EVENTS}/SessionCounter/increment_thread", "session"),
    Variant("async, global", PACKAGE, f"{EVENTS}/GlobalCounter/increment_async", "global"),
    Variant("inline, global", PACKAGE, f"{EVENTS}/GlobalCounter/increment_inline", "global"),
    Variant("thread, global", PACKAGE, f"{EVENTS}/GlobalCounter/increment_thread", "global"),
    Variant("Starlette + datastar_py", "benchmarks.rivals:starlette_datastar", "/increment", is_rival=True),
    Variant("FastHTML + datastar_py", "benchmarks.rivals:fasthtml_datastar", "/increment", is_rival=True),
)


def lost_events(variant: Variant, seen: Measurement) -> int | None:
    """Return the answered events that the counter does not show; None where nothing is counted."""
    sent = seen.all_answers - len(seen.growths)
    if variant.counter == "session":
        return sent - sum(seen.growths)
    if variant.counter == "global":
        # The highest first answer is the last opening event: all of them were answered before the load began.
        return sent - (seen.counts[1] - seen.counts[0])
    return None


def run_rounds(
    variants: Sequence[Variant], rounds: int, seconds: float, connections: int
) -> dict[str, list[Measurement]]:
    """Measure every variant once per round, each round beginning with another one."""
    seen: dict[str, list[Measurement]] = {variant.name: [] for variant in variants}
    with ExitStack() as stack:
        core = take_load_core()
        servers = {app: stack.enter_context(serving(app, core)) for app in sorted({v.app for v in variants})}
        for number in range(rounds):
            turn = number % len(variants)
            for variant in [*variants[turn:], *variants[:turn]]:
                seen[variant.name].append(measure_one(variant, servers[variant.app], seconds, connections))
    return seen


def measure_one(variant: Variant, server: Server, seconds: float, connections: int) -> Measurement:
    """Measure one variant once, and say at once when its answers are wrong."""
    seen = measure(Target(server.port, variant.path), server.cpu_s, connections=connections, seconds=seconds)
    if seen.failures:
        print(f"{variant.name}: {seen.failures} wrong answers, the first: {seen.first_failure!r}", flush=True)
    return seen


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios round by round, which a slow round of the machine does not shift."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def summary(variant: Variant, seen: Sequence[Measurement], floor: Sequence[Measurement]) -> dict[str, object]:
    """Return one variant's figures as they are written and shown."""
    lost = [lost_events(variant, one) for one in seen]
    costs = [one.server_cpu_us for one in seen]
    return {
        "variant": variant.name,
        "events_per_s": round(statistics.median(one.rate for one in seen)),
        "of_the_floor": round(median_ratio([one.rate for one in seen], [one.rate for one in floor]), 3),
        "cpu_of_the_floor": round(median_ratio([one.server_cpu_us for one in floor], costs), 3),
        "server_cpu_us": round(statistics.median(costs), 1),
        "p50_us": round(statistics.median(one.latency_us(0.5) for one in seen)),
        "p99_us": round(statistics.median(one.latency_us(0.99) for one in seen)),
        "generator_share": round(max(one.generator_share for one in seen), 2),
        "failures": sum(one.failures for one in seen),
        "lost": None if None in lost else sum(one for one in lost if one is not None),
        "events_per_s_by_round": [round(one.rate) for one in seen],
        "is_generator_bound": any(one.is_generator_bound for one in seen),
    }


def row(figures: dict[str, object]) -> list[object]:
    """Return the cells of one line of the table."""
    hidden = ("generator_share", "failures", "lost", "events_per_s_by_round", "is_generator_bound")
    generator = f"{figures['generator_share']}{' (bound)' if figures['is_generator_bound'] else ''}"
    lost = "-" if figures["lost"] is None else figures["lost"]
    shown = [value for name, value in figures.items() if name not in hidden]
    return [*shown, generator, figures["failures"], lost]


def chosen_variants(arguments: argparse.Namespace) -> list[Variant]:
    """Return the floor and the variants that the command line asks for."""
    only: str = arguments.only
    wanted = [v for v in VARIANTS if only in v.name and (arguments.rivals or not v.is_rival)]
    return [VARIANTS[0], *[variant for variant in wanted if variant.name != FLOOR]]


def parse_arguments() -> argparse.Namespace:
    """Read the command line; `--quick` is three rounds of one second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one variant in one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="three rounds of one second")
    parser.add_argument("--rivals", action="store_true", help="also the counter written with other packages")
    parser.add_argument("--only", default="", help="only the floor and variants with this text in their name")
    parser.add_argument("--no-file", action="store_true", help="print only, write no result file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 1.0, 3
    return arguments


def main() -> None:
    """Run, print the table and write the file."""
    arguments = parse_arguments()
    before = report.environment()
    variants = chosen_variants(arguments)
    seen = run_rounds(variants, arguments.rounds, arguments.seconds, arguments.connections)
    figures = [summary(variant, seen[variant.name], seen[FLOOR]) for variant in variants]
    print(report.table(HEADINGS, [row(one) for one in figures]))
    if not arguments.no_file:
        content = {"connections": arguments.connections, "variants": figures}
        path = report.write_result("events", before, content)
        shown = [(str(one["variant"]), float(str(one["events_per_s"])), f"{one['events_per_s']}") for one in figures]
        plot.write(path.with_suffix(".svg"), "Events/s, one server core, 32 connections", shown, own=OWN)
        print(f"written to {path.relative_to(report.ROOT)}")


if __name__ == "__main__":
    main()
