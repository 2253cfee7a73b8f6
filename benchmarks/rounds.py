"""Events of several servers in turns: each is measured once in a round, and compared with the floor of the same round.

Owns the variants' form, the rounds, the ratios, the table and the file. Which variants there are is their question's.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import plot, report
from benchmarks.load import Connection, Measurement, Target, measure
from benchmarks.servers import Server, serving, take_load_core

HEADINGS = (
    "variant",
    "events/s",
    "of the floor",
    "CPU of the floor",
    "CPU us",
    "p50 us",
    "p99 us",
    "server",
    "generator",
    "failed",
    "lost",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table: which app, which path, and whose counter its answers show.

    `connection` speaks with it, and `python` runs it: the interpreter of another environment for packages of their own.
    """

    name: str
    app: str
    path: str
    counter: str = "none"
    connection: type[Connection] = Connection
    python: str = sys.executable


FLOOR = Variant("floor", "benchmarks.floor:events", "/")


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
        places = sorted({(variant.app, variant.python) for variant in variants})
        servers = {place: stack.enter_context(serving(place[0], core, place[1])) for place in places}
        for number in range(rounds):
            turn = number % len(variants)
            for variant in [*variants[turn:], *variants[:turn]]:
                server = servers[variant.app, variant.python]
                seen[variant.name].append(measure_one(variant, server, seconds, connections))
    return seen


def measure_one(variant: Variant, server: Server, seconds: float, connections: int) -> Measurement:
    """Measure one variant once, and say at once when its answers are wrong."""
    target = Target(server.port, variant.path, connection=variant.connection)
    seen = measure(target, server.cpu_s, connections=connections, seconds=seconds)
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
        "server_share": round(min(one.server_share for one in seen), 2),
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


def parse_arguments(description: str | None, *, seconds: float = 3.0, rounds: int = 5) -> argparse.Namespace:
    """Read the command line of a question that is answered in rounds; `--quick` is three rounds of 0.6 seconds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=seconds, help="of one variant in one round")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="three rounds of 0.6 seconds")
    parser.add_argument("--only", default="", help="only the floor and variants with this text in their name")
    parser.add_argument("--no-file", action="store_true", help="print only, write no result file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 0.6, 3
    return arguments


def chosen_of(variants: Sequence[Variant], text: str) -> list[Variant]:
    """Return the floor, which is the first, and those with a text in their names, in capitals or not.

    Raises:
        SystemExit: there are none.
    """
    chosen = [variant for variant in variants[1:] if text.lower() in variant.name.lower()]
    if not chosen:
        raise SystemExit(f"--only {text!r} chooses none of: {'; '.join(variant.name for variant in variants[1:])}")
    return [variants[0], *chosen]


def run(
    question: str,
    variants: Sequence[Variant],
    arguments: argparse.Namespace,
    title: str,
    own: tuple[str, ...],
    packages: Mapping[str, str] | None = None,
) -> None:
    """Measure the variants (the floor first), print the table, write file and plot.

    Args:
        question: the file's name.
        variants: the rows; `--only` chooses among all but the first.
        arguments: what `parse_arguments` returned.
        title: the plot's.
        own: how the labels of the package's own rows begin.
        packages: versions in other environments that took part.
    """
    chosen, before = chosen_of(variants, arguments.only), report.environment()
    seen = run_rounds(chosen, arguments.rounds, arguments.seconds, arguments.connections)
    figures = [summary(variant, seen[variant.name], seen[variants[0].name]) for variant in chosen]
    print(report.table(HEADINGS, [row(one) for one in figures]))
    if not arguments.no_file:
        content: dict[str, object] = {"connections": arguments.connections, "variants": figures}
        if packages:
            content["other_packages"] = dict(packages)
        shown = [(str(one["variant"]), float(str(one["events_per_s"])), f"{one['events_per_s']}") for one in figures]
        report.write_result(question, before, content, plot.bars(title, shown, own))
