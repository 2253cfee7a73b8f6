"""Writes the README's table of figures from the newest kept results, so that no figure is typed by hand.

`python -m benchmarks.readme` replaces what stands between the markers; a test compares the two.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks import report

README = report.ROOT / "README.md"
BEGIN, END = "<!-- figures: made by python -m benchmarks.readme -->", "<!-- end of figures -->"


def newest(question: str) -> Path:
    """Return the file of the newest kept result."""
    return max(report.RESULTS.glob(f"{question}-*.json"))


def conditions(result: dict[str, Any]) -> str:
    """Return where and with what a result was measured, in one line."""
    where = result["environment"]
    packages = where["packages"]
    return (
        f"{where['processor']}, {where['cores']} cores, Python {where['python']}, uvicorn {packages['uvicorn']} with "
        f"uvloop {packages['uvloop']}, {where['taken_at'][:10]}, `{where['command']}`"
    )


def events_table(result: dict[str, Any]) -> str:
    """Return events per second for each variant."""
    rows = [
        [one["variant"], f"{one['events_per_s']:,}".replace(",", " "), f"{one['of_the_floor']:.2f}"]
        for one in result["variants"]
    ]
    return report.table(("one event, 32 connections", "events/s", "of the floor"), rows)


def fanout_table(result: dict[str, Any]) -> str:
    """Return deliveries per second with the most streams."""
    most = max(one["streams"] for one in result["variants"])
    rows = [
        [
            one["variant"],
            f"{one['deliveries_per_s']:,}".replace(",", " "),
            f"{one['cpu_of_the_floor']:.2f}",
            one["kib_per_stream"],
            one["event_p99_ms"],
        ]
        for one in result["variants"]
        if one["streams"] == most
    ]
    headings = (f"{most} open streams", "deliveries/s", "CPU of the floor", "KiB a stream", "other events, p99 ms")
    return report.table(headings, rows)


def block() -> str:
    """Return what belongs between the markers."""
    parts = []
    for question, table in (("events", events_table), ("fanout", fanout_table)):
        path = newest(question)
        result = json.loads(path.read_text(encoding="utf-8"))
        plot = path.with_suffix(".svg")
        where = f"{conditions(result)}: [{path.name}]({path.relative_to(report.ROOT).as_posix()})"
        parts += [table(result), where]
        if plot.exists():
            parts.append(f"![{question}]({plot.relative_to(report.ROOT).as_posix()})")
    return "\n\n".join(parts)


def shown(text: str) -> str:
    """Return what stands between the markers now."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    """Replace it."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n\n{block()}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
