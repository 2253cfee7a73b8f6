"""Runs every benchmark once: `python -m benchmarks`, quickly, or `python -m benchmarks --full`."""

import subprocess
import sys

from benchmarks.report import ROOT

QUESTIONS = tuple(
    f"benchmarks.{name}" for name in ("events", "stores", "fanout", "pages", "actions", "scale", "startup")
)


def main() -> int:
    """Run each benchmark in a process of its own and return the first exit status that is not 0."""
    is_full = "--full" in sys.argv[1:]
    for question in QUESTIONS:
        options = [] if is_full else ["--quick", "--no-file"]
        print(f"\n{question} {' '.join(options)}", flush=True)
        status = subprocess.run([sys.executable, "-m", question, *options], cwd=ROOT, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
