"""How long does it take to import the package, and until a server with it answers?

`python -m benchmarks.startup [--quick]`: processor time of new processes, in turns; the floor is what every one of them
needs, or uvicorn with a bare callable.
"""

import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from benchmarks import costs, report
from benchmarks.servers import serving, take_load_core

IMPORTS = {
    "floor: starlette.applications": "import starlette.applications",
    "faststate_asgi": "import faststate_asgi",
    "sqlmodel (a dependency)": "import sqlmodel",
    "datastar_py + Starlette": "import datastar_py.starlette, starlette.applications",
    "FastHTML": "import fasthtml.common",
}
SERVERS = {
    "floor: raw ASGI": "benchmarks.floor:events",
    "faststate": "benchmarks.apps:app",
    "Starlette and FastHTML + datastar_py": "benchmarks.rivals:starlette_datastar",
}


def import_ms(code: str) -> float:
    """Return the processor milliseconds of a Python that runs this and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=report.ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def ready_ms(app: str, core: int) -> float:
    """Return the processor milliseconds that a server has used when it accepts connections."""
    with serving(app, core) as server:
        return server.cpu_s() * 1e3


def measured(kind: str, takes: dict[str, Callable[[], float]], rounds: int) -> list[dict[str, object]]:
    """Return the medians of what was taken in turns, each with its ratio to the first."""
    seen: dict[str, list[float]] = {name: [] for name in takes}
    for _ in range(rounds):
        for name, take in takes.items():
            seen[name].append(take())
    return costs.figures(kind, {name: round(statistics.median(values)) for name, values in seen.items()}, "ms")


def main() -> None:
    """Measure imports, then servers."""
    arguments, before = costs.parse_arguments(__doc__), report.environment()
    rounds, core = (3 if arguments.quick else 9), take_load_core()
    rows = measured("import", {name: partial(import_ms, code) for name, code in IMPORTS.items()}, rounds)
    rows += measured("ready", {name: partial(ready_ms, app, core) for name, app in SERVERS.items()}, rounds)
    costs.tell("startup", "Processor ms", rows, before, file=not arguments.no_file)


if __name__ == "__main__":
    main()
