"""How many machine instructions do an event, a page and a delivery take, and is that more than it was?

`python -m benchmarks.instructions [--record] [operation ...]`, under valgrind, in one process with a fixed hash seed.
Each operation is run N and then 2 N times; the difference divided by N is its count, so that start-up does not show.
A count that grew by more than a tenth over `results/instructions.json` fails; where Python, a package or the kind of
processor is another than in the record, counts cannot be compared, and it only reports.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.inprocess import OPERATIONS

RECORD = report.RESULTS / "instructions.json"
ALLOWED_GROWTH = 1.10
DEADLINE_S = 280.0
TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)
DECIDING = ("uvloop", "starlette", "pydantic", "pydantic-core", "sqlmodel", "datastar-py", "anyio", "itsdangerous")


def conditions() -> dict[str, Any]:
    """Return what a count depends on besides the package itself."""
    return {
        "machine": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
        "c_library": " ".join(platform.libc_ver()),
        "packages": report.package_versions(DECIDING),
    }


def count(names: Sequence[str]) -> dict[str, int]:
    """Run the operations under callgrind and return the instructions of one of each.

    Raises:
        RuntimeError: valgrind or an operation failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("valgrind", "--tool=callgrind", "--dump-before=getpriority", "--dump-instr=no"),
            *(f"--callgrind-out-file={folder}/out", sys.executable, "-m", "benchmarks.inprocess", "--marked", *names),
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=report.ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        # Parts are numbered from 1; what ends at a mark is the part's: the first lies before the first mark.
        dumps = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        parts = [int(found[1]) for path in dumps if (found := TOTALS.search(path.read_text(encoding="utf-8")))]
    if done.returncode or len(parts) < 4 * len(names):
        raise RuntimeError(f"valgrind failed with {len(parts)} parts:\n{done.stderr[-3000:]}")
    return {name: _per_operation(name, parts[4 * index : 4 * index + 4]) for index, name in enumerate(names)}


def _per_operation(name: str, parts: Sequence[int]) -> int:
    """Return the difference of the run of 2 N and the run of N, divided by N."""
    _, single, _, double = parts
    return round((double - single) / OPERATIONS[name][1])


def compare(counts: Mapping[str, int], record: Mapping[str, int]) -> tuple[str, list[str]]:
    """Return a table, and the operations that grew too much."""
    rows, grown = [], []
    for name, now in counts.items():
        before = record.get(name)
        rows.append([name, now, before or "-", f"{now / before:.3f}" if before else "-"])
        if before and now > before * ALLOWED_GROWTH:
            grown.append(name)
    return report.table(("operation", "instructions", "recorded", "ratio"), rows), grown


def differing(now: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """Return in words what is another than when the record was made."""
    flat_now, flat_recorded = _flat(now), _flat(recorded)
    names = sorted({*flat_now, *flat_recorded})
    return [
        f"{n}: {flat_recorded.get(n)} -> {flat_now.get(n)}" for n in names if flat_now.get(n) != flat_recorded.get(n)
    ]


def _flat(conditions: Mapping[str, Any]) -> dict[str, str]:
    packages: Mapping[str, str] = conditions.get("packages", {})
    return {**{name: value for name, value in conditions.items() if name != "packages"}, **packages}


def main() -> int:
    """Count, compare or record, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operations", nargs="*", help=f"beginnings of: {', '.join(OPERATIONS)}")
    parser.add_argument("--record", action="store_true", help="write what was counted instead of comparing")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: no instructions were counted")
        return 1 if os.environ.get("CI") == "true" else 0
    wanted: list[str] = arguments.operations
    names = [name for name in OPERATIONS if not wanted or any(name.startswith(item) for item in wanted)]
    recorded: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    counts, now = count(names), conditions()
    others = differing(now, recorded.get("conditions", {}))
    table, grown = compare(counts, recorded.get("instructions", {}))
    print(table)
    if arguments.record:
        kept = {} if others else recorded.get("instructions", {})
        content = {"conditions": now, "commit": report.git("rev-parse", "HEAD"), "instructions": {**kept, **counts}}
        RECORD.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return 0
    if others:
        print(f"The record was made under other conditions, so nothing fails here ({'; '.join(others)})")
        return 0
    if grown:
        print(f"More than a tenth over the record: {', '.join(grown)}. If that is meant: --record, and say why.")
    return 1 if grown else 0


if __name__ == "__main__":
    raise SystemExit(main())
