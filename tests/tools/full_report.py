"""A pytest plugin that keeps the result of `make test-full`: `python -m pytest -p tests.tools.full_report`.

Writes benchmarks/results/test-full-<date>.json: where it ran, how many tests ended how, each test of full size, and
each failure of any size.
"""

from collections import Counter
from dataclasses import dataclass

import pytest

from benchmarks import report

SHORT = 500
WORST_FIRST = ("failed", "skipped", "passed")


@dataclass(slots=True)
class Outcome:
    """How one test ended, over its set-up, its call and its tear-down."""

    name: str
    is_full: bool
    outcome: str = "passed"
    seconds: float = 0.0
    text: str = ""

    def take(self, phase: pytest.TestReport) -> None:
        """Adds what is known of one phase; the worst one decides."""
        self.seconds += phase.duration
        self.outcome = min(self.outcome, phase.outcome, key=WORST_FIRST.index)
        if phase.outcome != "passed" and not self.text:
            self.text = short_text(phase)

    def as_dict(self) -> dict[str, object]:
        """Returns what is kept."""
        kept: dict[str, object] = {"name": self.name, "outcome": self.outcome, "seconds": round(self.seconds, 2)}
        return {**kept, "text": self.text} if self.text else kept


def short_text(phase: pytest.TestReport) -> str:
    """Returns why a test failed or was skipped, in a few lines and without the paths of this machine."""
    crash = getattr(phase.longrepr, "reprcrash", None)
    if isinstance(phase.longrepr, tuple):
        text = str(phase.longrepr[2])
    else:
        text = str(crash.message if crash is not None else phase.longrepr)
    return text.replace(str(report.ROOT), ".")[:SHORT]


class FullReport:
    """Collects the outcomes of one run and writes them when it ends, also when it was interrupted."""

    def __init__(self) -> None:
        self._environment = report.environment() | {"command": "make test-full"}
        self._outcomes: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes one phase of one test."""
        outcome = self._outcomes.setdefault(report.nodeid, Outcome(report.nodeid, "full" in report.keywords))
        outcome.take(report)

    def figures(self, exit_status: int) -> dict[str, object]:
        """Returns what the file holds besides the environment."""
        outcomes = list(self._outcomes.values())
        full = [outcome for outcome in outcomes if outcome.is_full]
        return {
            "exit_status": exit_status,
            "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
            "totals": dict(Counter(outcome.outcome for outcome in outcomes)),
            "totals_full": dict(Counter(outcome.outcome for outcome in full)),
            "failures": [outcome.as_dict() for outcome in outcomes if outcome.outcome == "failed"],
            "full": [outcome.as_dict() for outcome in full],
        }

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Writes the file, if any test ran."""
        if self._outcomes:
            report.write_result("test-full", self._environment, self.figures(int(exitstatus)))


def pytest_configure(config: pytest.Config) -> None:
    """Begins to collect."""
    config.pluginmanager.register(FullReport())
