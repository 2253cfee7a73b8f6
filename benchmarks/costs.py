"""Measures small costs in this process: several things in turn, so that a slow moment hits all of them."""

import argparse
import asyncio
import gc
import logging
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from benchmarks import plot, report

Work = Callable[[int], Awaitable[None]]


def parse_arguments(description: str | None) -> argparse.Namespace:
    """Read the command line of a question that is answered in this process."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="five short rounds instead of eleven longer ones")
    parser.add_argument("--no-file", action="store_true", help="print only, write no result file")
    return parser.parse_args()


async def measure(works: Mapping[str, Work], step: int, *, is_quick: bool) -> dict[str, float]:
    """Return the median processor microseconds of one of each, all threads together.

    Args:
        works: what does so many operations, by name.
        step: how many are done at once.
        is_quick: fewer and shorter rounds.
    """
    rounds, part_s = (5, 0.1) if is_quick else (11, 0.3)
    for work in works.values():
        await work(step)
    gc.collect()
    costs: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        turn = number % len(works)
        names = list(works)
        for name in [*names[turn:], *names[:turn]]:
            costs[name].append(await _part(works[name], step, part_s))
    return {name: round(statistics.median(seen), 2) for name, seen in costs.items()}


async def _part(work: Work, step: int, part_s: float) -> float:
    """Work for this long and return microseconds per operation."""
    number, began = 0, time.process_time()
    while time.process_time() - began < part_s:
        await work(step)
        number += step
    return (time.process_time() - began) / number * 1e6


def repeated(call: Callable[[], object]) -> Work:
    """Return the work of calling a plain function so many times."""

    async def work(number: int) -> None:
        for _ in range(number):
            call()
        await asyncio.sleep(0)

    return work


def pin() -> None:
    """Stay on one core, whose loop is kept busy on purpose: nothing needs to warn of that."""
    logging.getLogger("faststate").setLevel(logging.ERROR)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def figures(kind: str, measured: Mapping[str, float], unit: str = "us") -> list[dict[str, object]]:
    """Return the rows of one kind, each with its ratio to the floor, which is the first."""
    floor = next(iter(measured.values()))
    return [
        {"kind": kind, "variant": name, f"cpu_{unit}": cost, "of_the_floor": round(floor / cost, 3)}
        for name, cost in measured.items()
    ]


def tell(
    question: str, title: str, figures: Sequence[dict[str, object]], environment: Mapping[str, object], *, file: bool
) -> None:
    """Print the figures as a table and write them with a plot; a row is a kind, a variant, its cost and a ratio."""
    print(report.table(list(figures[0]), [list(one.values()) for one in figures]))
    if file:
        rows = [plotted(*one.values()) for one in figures]
        report.write_result(question, environment, {"variants": list(figures)}, plot.bars(title, rows))


def plotted(kind: object, variant: object, cost: object, *_: object) -> tuple[str, float, str]:
    """Return one row of the plot."""
    return f"{variant} ({kind})", float(str(cost)), str(cost)
