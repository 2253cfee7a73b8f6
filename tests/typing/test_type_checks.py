"""The promises to type checkers hold under mypy and pyright in strict mode, and wrong calls are errors."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import ROOT, require

HERE = Path(__file__).parent
PROMISES = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
PYRIGHT = Path(sys.executable).with_name("pyright")

WRONG = """
from faststate_asgi import ReactiveState, event


class CounterState(ReactiveState):
    count: int = 0

    @event
    def increment(self, amount: int = 1) -> None:
        self.count += amount


{line}
"""
WRONG_LINES = [
    'CounterState.increment("x")',
    'CounterState().increment("x")',
    "CounterState.increment(amount=None)",
    "CounterState().increment(1, 2)",
    "CounterState.increment(unknown=1)",
    'CounterState().count = "x"',
    "CounterState.missing()",
]


def mypy(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    return subprocess.run([*command, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.timeout(400)
def test_mypy_agrees_with_every_promise() -> None:
    result = mypy(*PROMISES)
    assert result.returncode == 0, result.stdout


@pytest.mark.timeout(400)
def test_pyright_agrees_with_every_promise() -> None:
    require("pyright", PYRIGHT.is_file())
    command = [str(PYRIGHT), "--project", str(ROOT / "pyproject.toml"), *map(str, PROMISES)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.timeout(400)
def test_mypy_refuses_every_wrong_call(tmp_path: Path) -> None:
    for number, line in enumerate(WRONG_LINES):
        (tmp_path / f"wrong_{number}.py").write_text(WRONG.format(line=line))
    (tmp_path / "right.py").write_text(WRONG.format(line="CounterState.increment(2)\nCounterState().increment(2)"))
    result = mypy(*sorted(tmp_path.glob("*.py")))
    complaints = {line.partition(".py:")[0][-1] for line in result.stdout.splitlines() if "error:" in line}
    assert "right.py" not in result.stdout
    assert complaints == {str(number) for number in range(len(WRONG_LINES))}, result.stdout
