"""Writes the figures of README.md and docs/performance.md from the newest kept results: no figure is typed by hand.

`python -m benchmarks.readme` replaces what stands between the markers; a test compares the two.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import aims, report

README = report.ROOT / "README.md"
PERFORMANCE = report.ROOT / "docs" / "performance.md"
END = "<!-- end of figures -->"
# A server that got less of its core was disturbed by other programs, and its figures by the clock are worth little.
LEAST_SHARE, LARGEST_LOAD = 0.9, 0.5
# What of a profile is shown.
SMALLEST, FUNCTIONS = 0.01, 15


def newest(question: str) -> Path | None:
    """Return the file of the newest kept result, if there is one."""
    return max(report.RESULTS.glob(f"{question}-*.json"), default=None)


def content(question: str) -> dict[str, Any] | None:
    """Return the newest kept result, if there is one."""
    path = newest(question)
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def conditions(result: dict[str, Any]) -> str:
    """Return where and with what a result was measured, in one line."""
    where = result["environment"]
    packages = where["packages"]
    return (
        f"{where['processor']}, {where['cores']} cores, Python {where['python']}, uvicorn {packages['uvicorn']} with "
        f"uvloop {packages['uvloop']}, {where['taken_at'][:10]}, `{where['command']}`"
    )


def is_disturbed(result: dict[str, Any]) -> bool:
    """Say whether other programs ran during a measurement."""
    shares = [one["server_share"] for one in result["variants"] if one["variant"] == "floor" and "server_share" in one]
    return min(shares, default=1.0) < LEAST_SHARE or result["environment"]["load_average_before"] > LARGEST_LOAD


def spaced(number: int) -> str:
    """Return a number with its thousands apart."""
    return f"{number:,}".replace(",", " ")


def events_table(result: dict[str, Any]) -> str:
    """Return events per second for each variant."""
    rows = [
        [one["variant"], spaced(one["events_per_s"]), f"{one['of_the_floor']:.2f}", f"{one['cpu_of_the_floor']:.2f}"]
        for one in result["variants"]
    ]
    return report.table(("one event, 32 connections", "events/s", "of the floor", "CPU of the floor"), rows)


def fanout_table(result: dict[str, Any]) -> str:
    """Return deliveries per second with the most streams."""
    most = max(one["streams"] for one in result["variants"])
    rows = [
        [
            one["variant"],
            spaced(one["deliveries_per_s"]),
            f"{one['of_the_floor']:.2f}",
            f"{one['cpu_of_the_floor']:.2f}",
            one["kib_per_stream"],
            one["event_p99_ms"],
        ]
        for one in result["variants"]
        if one["streams"] == most
    ]
    headings = ("deliveries/s", "of the floor", "CPU of the floor", "KiB a stream", "other events, p99 ms")
    return report.table((f"{most} open streams", *headings), rows)


def stores_table(result: dict[str, Any]) -> str:
    """Return events per second for each store."""
    rows = [
        [one["variant"], spaced(one["events_per_s"]), dash(one["of_memory"]), dash(one["of_redis"])]
        for one in result["variants"]
    ]
    return report.table(("one event, 32 connections", "events/s", "of memory", "of redis"), rows)


def costs_table(result: dict[str, Any]) -> str:
    """Return the rows of a small cost as they were printed."""
    return report.table(list(result["variants"][0]), [list(one.values()) for one in result["variants"]])


def profiles(*loads: str) -> str:
    """Return self time by package for some loads beside each other, and by function for the first."""
    found = {load: result for load in loads if (result := content(f"profile-{load}"))}
    packages = {name: 0 for result in found.values() for name, part in result["packages"].items() if part >= SMALLEST}
    rows = [[name, *[f"{one['packages'].get(name, 0):.0%}" for one in found.values()]] for name in packages]
    first = next(iter(found), None)
    if first is None:
        return "No profile is kept."
    functions = [(f"`{name}`", f"{part:.1%}") for name, part in list(found[first]["functions"].items())[:FUNCTIONS]]
    files = ", ".join(
        f"`{one['environment']['command']}` at {one['environment']['commit'][:8]}" for one in found.values()
    )
    parts = [
        report.table(("self time", *found), rows),
        report.table((f"function, load `{first}`", "self time"), functions),
    ]
    return "\n\n".join([*parts, f"{conditions(found[first]).rpartition(', ')[0]}; {files}"])


def dash(figure: float | None) -> str:
    """Return a ratio, or a dash where it makes no sense."""
    return "-" if figure is None else f"{figure:.2f}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "events": events_table,
    "starmodel": events_table,
    "nicegui": events_table,
    "fanout": fanout_table,
    "nchan": fanout_table,
    "stores": stores_table,
    "pages": costs_table,
    "actions": costs_table,
    "scale": costs_table,
    "startup": costs_table,
}


def figures(question: str, document: Path) -> str:
    """Return the table, the conditions and the plot of the newest result of one question."""
    path, result = newest(question), content(question)
    if path is None or result is None:
        return f"No result of `python -m benchmarks.{question}` is kept."
    up = "../" * (len(document.relative_to(report.ROOT).parts) - 1)
    where = f"{conditions(result)}: [{path.name}]({up}{path.relative_to(report.ROOT).as_posix()})"
    if is_disturbed(result):
        where += ". **Other programs ran meanwhile: figures by the clock are uncertain**"
    plot = path.with_suffix(".svg")
    shown = [f"![{question}]({up}{plot.relative_to(report.ROOT).as_posix()})"] if plot.exists() else []
    return "\n\n".join([TABLES[question](result), where, *shown])


# Each document's blocks, by the marker at which they begin.
BLOCKS: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"figures": lambda: "\n\n".join(figures(question, README) for question in ("events", "fanout"))},
    PERFORMANCE: {
        "aims": lambda: aims.table(content),
        "profiles": lambda: profiles("event", "thread", "row", "broadcast", "floor"),
        "others": lambda: "\n\n".join(figures(question, PERFORMANCE) for question in ("nicegui", "starmodel", "nchan")),
        "stores": lambda: figures("stores", PERFORMANCE),
        "small costs": lambda: "\n\n".join(
            figures(question, PERFORMANCE) for question in ("pages", "actions", "scale", "startup")
        ),
    },
}


def begin(name: str) -> str:
    """Return the marker at which a block begins."""
    return f"<!-- {name}: made by python -m benchmarks.readme -->"


def renewed(document: Path) -> str:
    """Return a document's text with every block as the newest results say.

    Raises:
        ValueError: a marker is missing.
    """
    text = document.read_text(encoding="utf-8")
    for name, make in BLOCKS[document].items():
        before, marker, rest = text.partition(begin(name))
        _, end, after = rest.partition(END)
        if not marker or not end:
            raise ValueError(f"{document.name} has no block {name!r}")
        text = f"{before}{marker}\n\n{make()}\n\n{end}{after}"
    return text


def main() -> None:
    """Replace them.

    Raises:
        SystemExit: the results are kept where the documents cannot show them.
    """
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not report.RESULTS.is_relative_to(report.ROOT):
        raise SystemExit(
            f"the documents show results of the repository only, and BENCHMARK_RESULTS is {report.RESULTS}"
        )
    for document in BLOCKS:
        document.write_text(renewed(document), encoding="utf-8")


if __name__ == "__main__":
    main()
