"""Runs every benchmark once: `python -m benchmarks` quickly and without files.

`python -m benchmarks --full` runs the whole, keeps the results and renews the tables of the documents.
"""

import subprocess
import sys
import time

from benchmarks.nchan import MODULE as NCHAN
from benchmarks.report import ROOT

QUESTIONS = ("events", "stores", "fanout", "pages", "actions", "scale", "startup")
# These fetch packages from PyPI at their first run.
FULL_ONLY = ("nicegui", "starmodel")


def questions(*, is_full: bool) -> list[str]:
    """Return what is measured, and say what cannot be."""
    if not is_full:
        return list(QUESTIONS)
    if NCHAN.exists():
        return [*QUESTIONS, *FULL_ONLY, "nchan", "readme"]
    print("nchan is left out: nginx-light and libnginx-mod-nchan are not installed")
    return [*QUESTIONS, *FULL_ONLY, "readme"]


def main() -> int:
    """Run each benchmark in a process of its own and return the first exit status that is not 0."""
    is_full, began = "--full" in sys.argv[1:], time.monotonic()
    options = [] if is_full else ["--quick", "--no-file"]
    for question in questions(is_full=is_full):
        command = [sys.executable, "-m", f"benchmarks.{question}", *options]
        print(f"\nbenchmarks.{question} {' '.join(options)}", flush=True)
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if status:
            return status
        print(f"{time.monotonic() - began:.0f} s so far", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
