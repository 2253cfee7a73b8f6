"""What `make test-full` found is kept: each test of full size, and each failure of any size."""

from typing import Any

import pytest

from benchmarks import report
from tests.tools.full_report import FullReport


def phase(name: str, when: Any, outcome: Any, text: Any = None, *marks: str) -> pytest.TestReport:
    return pytest.TestReport(name, ("t.py", 1, name), dict.fromkeys(marks, 1), outcome, text, when, duration=0.5)


def test_a_test_is_as_good_as_its_worst_phase_and_full_ones_are_listed() -> None:
    kept = FullReport()
    where = f"{report.ROOT}/tests/t.py"
    for one in (
        phase("a", "setup", "passed", None, "full"),
        phase("a", "call", "failed", f"{where} said no", "full"),
        phase("a", "teardown", "passed", None, "full"),
        phase("b", "call", "passed"),
        phase("c", "setup", "skipped", ("t.py", 1, "Skipped: no store"), "full"),
        phase("d", "call", "passed", None, "full"),
        phase("d", "teardown", "failed", "left something"),
    ):
        kept.pytest_runtest_logreport(one)
    figures = kept.figures(1)
    failed = {"name": "a", "outcome": "failed", "seconds": 1.5, "text": "./tests/t.py said no"}
    also_failed = {"name": "d", "outcome": "failed", "seconds": 1.0, "text": "left something"}
    assert figures == {
        "exit_status": 1,
        "seconds": 3.5,
        "totals": {"failed": 2, "passed": 1, "skipped": 1},
        "totals_full": {"failed": 2, "skipped": 1},
        "failures": [failed, also_failed],
        "full": [failed, {"name": "c", "outcome": "skipped", "seconds": 0.5, "text": "Skipped: no store"}, also_failed],
    }
