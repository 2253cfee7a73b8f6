"""What the package set out to reach, and what the newest kept results say of it.

Owns the aims; each is compared by the clock and by processor time where both were measured, and is reached when both
reach it. It measures nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import report

Result = dict[str, Any]
# Newest result of a question, or None while none is kept.
Newest = Callable[[str], Result | None]
BYTES_IN_KIB = 1024
UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Aim:
    """One line: what is measured, the bound, what was reached by the clock and by processor time, and where."""

    name: str
    bound: float
    is_least: bool
    reached: float | None
    by_cpu: float | None = None
    unit: str = ""

    @property
    def verdict(self) -> str:
        """Say whether every figure there is keeps to the bound."""
        figures = [one for one in (self.reached, self.by_cpu) if one is not None]
        if not figures:
            return UNKNOWN
        kept = [one >= self.bound if self.is_least else one <= self.bound for one in figures]
        return "yes" if all(kept) else "no" if not any(kept) else "not by both"

    def row(self) -> list[str]:
        """Return the cells of one line."""
        bound = f"{'at least' if self.is_least else 'at most'} {self.bound:g}{self.unit}"
        return [self.name, bound, self._text(self.reached), self._text(self.by_cpu), self.verdict]

    def _text(self, figure: float | None) -> str:
        """Return a figure with its unit."""
        return "-" if figure is None else f"{figure:.3g}{self.unit}"


def find(result: Result | None, variant: str, **more: object) -> Result:
    """Return one variant's figures, or none."""
    rows = result["variants"] if result else []
    wanted = {"variant": variant, **more}
    return next((one for one in rows if all(one.get(name) == value for name, value in wanted.items())), {})


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Return a ratio of two figures, if both are there."""
    return round(numerator / denominator, 3) if numerator and denominator else None


def events(newest: Newest) -> Iterator[Aim]:
    """Return the aims of events: parts of the floor."""
    result = newest("events")
    for kind, bound in (("async", 0.5), ("inline", 0.5), ("thread", 0.45)):
        for key in ("session", "global"):
            one = find(result, f"{kind}, {key}")
            yield Aim(
                f"event, {kind}, {key}: part of the floor",
                bound,
                True,
                one.get("of_the_floor"),
                one.get("cpu_of_the_floor"),
            )


def stores(newest: Newest) -> Iterator[Aim]:
    """Return the aims of stores: parts of memory, and of Redis without a delay."""
    result = newest("stores")
    for name, bound, column in (
        ("sqlite, hot key", 0.5, "of_memory"),
        ("redis, hot key", 0.5, "of_memory"),
        ("sqlite, 32 keys", 0.3, "of_memory"),
        ("redis, 32 keys", 0.25, "of_memory"),
        ("redis + 1 ms, hot key", 0.67, "of_redis"),
    ):
        yield Aim(f"{name}: part {column.replace('_', ' ')}", bound, True, find(result, name).get(column))


def fanout(newest: Newest) -> Iterator[Aim]:
    """Return the aims of fan-out with the most streams."""
    result = newest("fanout")
    most = max((one["streams"] for one in result["variants"]), default=0) if result else 0
    own = find(result, "faststate", streams=most)
    kib = own.get("kib_per_stream")
    yield Aim(f"{most} streams: part of bare uvloop", 0.7, True, own.get("of_the_floor"), own.get("cpu_of_the_floor"))
    nchan = newest("nchan")
    ours, theirs = (find(nchan, name, streams=most) for name in ("faststate", "nginx + nchan (C)"))
    yield Aim(
        f"{most} streams: part of nginx with nchan",
        0.8,
        True,
        ratio(ours.get("deliveries_per_s"), theirs.get("deliveries_per_s")),
        ratio(theirs.get("cpu_us_per_delivery"), ours.get("cpu_us_per_delivery")),
    )
    kb = None if kib is None else round(kib * BYTES_IN_KIB / 1000, 1)
    yield Aim("memory of an open stream", 14, False, kb, unit=" KB")
    yield Aim(f"{most} streams: commit to the last byte, p99", 120, False, own.get("p99_ms"), unit=" ms")
    yield Aim("other events meanwhile, p99", 8, False, own.get("event_p99_ms"), unit=" ms")
    grown = result["growth"].get("faststate") if result else None
    yield Aim("a delivery with the most streams over one with the fewest", 1.3, False, None, grown)
    bare = result["growth"].get("floor: bare uvloop") if result else None
    yield Aim("the same, over what it grows for bare uvloop", 1.3, False, None, ratio(grown, bare))


def scale(newest: Newest) -> Iterator[Aim]:
    """Return the aims of scale: the cost beside the most over that beside the fewest."""
    result = newest("scale")
    for kind in ("registered classes", "stored keys", "other streams"):
        rows = [one for one in (result or {"variants": []})["variants"] if one["kind"] == kind]
        own = [one for one in rows if one["variant"].startswith("faststate")]
        grown = own[-1]["of_the_smallest"] if own else None
        sizes = f"{own[0]['variant'].split(', ')[1]} to {own[-1]['variant'].split(', ')[1]} " if own else ""
        yield Aim(f"event beside {sizes}{kind}: growth", 1.1, False, None, grown)


def table(newest: Newest) -> str:
    """Return all aims as a table."""
    aims = [aim for part in (events, fanout, stores, scale) for aim in part(newest)]
    return report.table(("what", "aim", "by the clock", "by processor time", "reached"), [aim.row() for aim in aims])
