"""Environments of their own for packages that cannot share one with this package, made from PyPI at their first use.

They lie in `.cache/benchmarks` and are made anew when what belongs in them changes. Servers in them run the modules of this
folder with the same uvicorn, uvloop and httptools as all others.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from benchmarks import rounds
from benchmarks.events import OWN, VARIANTS
from benchmarks.report import ROOT
from benchmarks.rounds import FLOOR, Variant
from benchmarks.servers import parse_server_arguments, serve

FOLDER = ROOT / ".cache" / "benchmarks"
INSTALL_DEADLINE_S = 300.0
SERVER = ("uvicorn", "uvloop", "httptools")
SHOW = (
    "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
)


def interpreter(name: str, *installs: Sequence[str]) -> str:
    """Return the Python of the environment with this name, which is made if it is not there.

    Args:
        name: its folder.
        installs: the arguments of `pip install`, one call after the other; the server's packages come with them.

    Raises:
        RuntimeError: something could not be installed, with pip's own message.
    """
    folder = FOLDER / name
    python, stamp = str(folder / "bin" / "python"), folder / "installed.json"
    calls = [*map(list, installs), [f"{package}=={version(package)}" for package in SERVER]]
    wanted = json.dumps(calls)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"making the environment {name}", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        for arguments in calls:
            _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments])
        stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(command: Sequence[str]) -> None:
    """Run a command that says something only when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_DEADLINE_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def versions(python: str, *packages: str) -> dict[str, str]:
    """Return what is installed there."""
    done = subprocess.run([python, "-c", SHOW, *packages], check=True, capture_output=True, text=True, timeout=60)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@dataclass(frozen=True, slots=True)
class Rival:
    """A package that is measured from an environment of its own, beside the floor and rows of `events`.

    Attributes:
        question: names its module, its environment and its result.
        usage: the text of ``--help``.
        app: makes what its server serves.
        installs: see `interpreter`.
        packages: whose versions are kept with the result.
        others: the rows of `events`.
        variant: its own row.
    """

    question: str
    usage: str | None
    app: Callable[[], Any]
    installs: Sequence[Sequence[str]]
    packages: Sequence[str]
    others: Sequence[str]
    variant: Variant

    def main(self) -> None:
        """Be the server if the command line names a port; otherwise measure."""
        if "--port" in sys.argv:
            asked = parse_server_arguments()
            serve(self.app(), asked.port, asked.core)
            return
        arguments = rounds.parse_arguments(self.usage)
        python = interpreter(self.question, *self.installs)
        variants = [FLOOR, *[one for one in VARIANTS if one.name in self.others], replace(self.variant, python=python)]
        title = "Events/s, one server core, 32 connections"
        rounds.run(self.question, variants, arguments, title, OWN, versions(python, *self.packages))
