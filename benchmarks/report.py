"""What every benchmark says at its end: where it ran, a table to read and a JSON file to cite.

Owns the environment, the table and the file. It measures nothing.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Elsewhere for runs whose figures are not to be kept, such as those of the tests.
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results").absolute()
PACKAGES = (
    "faststate-asgi",
    "uvicorn",
    "uvloop",
    "httptools",
    "starlette",
    "pydantic",
    "pydantic-core",
    "sqlmodel",
    "datastar-py",
    "python-fasthtml",
)


def processor_model() -> str:
    """Name the processor as the kernel does, or as Python does where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the installed version of each package that matters to a figure, without those not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git(*arguments: str) -> str:
    """Return what a reading git command prints, or an empty text where there is no git or no repository."""
    try:
        # Without optional locks, so that a look at the tree never writes to it.
        command = ["git", "--no-optional-locks", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def command_line() -> str:
    """Return the command that repeats this run, without the paths of this machine."""
    module = sys.modules["__main__"].__spec__
    name = module.name if module is not None else Path(sys.argv[0]).stem
    return " ".join(["python", "-m", name, *sys.argv[1:]])


def environment() -> dict[str, object]:
    """Describe processor, cores, load, versions, commit and command: what a figure is worthless without."""
    return {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": git("rev-parse", "HEAD") or None,
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "processor": processor_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": package_versions(),
    }


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table with aligned columns: the first to the left, figures to the right."""
    cells = [[str(heading) for heading in headings], *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    rule = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]]
    return "\n".join(_table_line(row, widths) for row in [cells[0], rule, *cells[1:]])


def _table_line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Return one padded line of a table."""
    padded = [row[0].ljust(widths[0]), *[cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]]
    return "| " + " | ".join(padded) + " |"


def write_result(
    question: str, environment: Mapping[str, object], figures: Mapping[str, object], plot: str | None = None
) -> Path:
    """Write results/<question>-<date>.json (a later run of the same day replaces it) and return its path.

    Args:
        question: what the file is called.
        environment: where the figures come from.
        figures: what was measured.
        plot: an SVG that is written beside it.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{question}-{datetime.now(UTC).date().isoformat()}.json"
    content = {"question": question, "environment": dict(environment), **figures}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        path.with_suffix(".svg").write_text(plot, encoding="utf-8")
    print(f"written to {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return path


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value below which `part` (0 to 1) of the values lie; 0.0 for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0
