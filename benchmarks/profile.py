"""Where does a server under load spend its time? py-spy looks at it from outside while it works.

`python -m benchmarks.profile [event|inline|thread|row|broadcast|floor] [--seconds 10] [--native]` prints the functions with
the largest self time, writes them to the results, and a flame graph to `.cache/profiles`. Looking into another process
needs root, or `sysctl kernel.yama.ptrace_scope=0`. What waits is not counted.
"""

import argparse
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.events import EVENTS, PACKAGE
from benchmarks.fanout import PACKAGE as FANOUT
from benchmarks.fanout import Opened, open_streams, run_round
from benchmarks.load import Target, measure
from benchmarks.rounds import FLOOR
from benchmarks.servers import Server, raise_file_limit, serving, take_load_core

FOLDER = report.ROOT / ".cache" / "profiles"
PY_SPY = Path(sys.executable).with_name("py-spy")
STREAMS = 1_000
SAMPLES_PER_S = 400
# py-spy needs a moment to find its way, and its samples must end before the load does.
LEAD_S, DEADLINE_S = 3.0, 60.0
SHOWN = 30
# py-spy takes a thread for busy that has just begun to wait.
WAITING = ("Condition.wait (", "wait (threading.py", "Workers._serve (")
PATHS = {
    "event": f"{EVENTS}/SessionCounter/increment_async",
    "inline": f"{EVENTS}/SessionCounter/increment_inline",
    "thread": f"{EVENTS}/SessionCounter/increment_thread",
    "row": f"{EVENTS}/Table/increment_row",
}


def self_times(stacks: str) -> Counter[str]:
    """Return the samples of each innermost function, from one collapsed stack a line; threads that wait are left out."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, number = line.rpartition(" ")
        innermost = frames.rpartition(";")[2]
        if not innermost.startswith(WAITING):
            found[innermost] += int(number)
    return found


def by_package(functions: Counter[str]) -> Counter[str]:
    """Return the samples of each package; what the event loop does itself is found in the runner that runs it."""
    found: Counter[str] = Counter()
    for function, number in functions.items():
        package = function.rpartition("(")[2].partition("/")[0].partition(":")[0]
        found["the event loop" if function.startswith("Runner.run") else package] += number
    return found


def shares(found: Counter[str]) -> dict[str, float]:
    """Return the part of all samples that each of the largest has."""
    return {name: round(number / found.total(), 4) for name, number in found.most_common(SHOWN)}


def table(heading: str, parts: dict[str, float]) -> str:
    """Return a table of parts."""
    return report.table((heading, "self time"), [(f"`{name}`", f"{part:.1%}") for name, part in parts.items()])


def recording(server: Server, kind: str, path: Path, seconds: float, options: list[str]) -> "subprocess.Popen[str]":
    """Start py-spy on a server; `kind` is the form of its file."""
    command = [str(PY_SPY), "record", "--pid", str(server.process.pid), "--duration", str(max(1, round(seconds)))]
    command += ["--rate", str(SAMPLES_PER_S), "--function", "--format", kind, "--output", str(path), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def record(
    server: Server, name: str, seconds: float, options: list[str], load: Callable[[float], object]
) -> Counter[str]:
    """Put the load on the server and record it twice, as a flame graph and as stacks; return self times.

    Raises:
        RuntimeError: py-spy could not, with what it said.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    stacks = FOLDER / f"{name}.txt"
    for kind, path in (("flamegraph", FOLDER / f"{name}.svg"), ("raw", stacks)):
        working = threading.Thread(target=load, args=(seconds + LEAD_S,))
        working.start()
        spy = recording(server, kind, path, seconds, options)
        said, _ = spy.communicate(timeout=seconds + DEADLINE_S)
        working.join()
        if spy.returncode:
            raise RuntimeError(f"py-spy failed, is this root?\n{said}")
    return self_times(stacks.read_text(encoding="utf-8"))


def record_events(name: str, core: int, seconds: float, options: list[str], stack: ExitStack) -> Counter[str]:
    """Record a server that 32 connections send events to."""
    app, path = (FLOOR.app, FLOOR.path) if name == "floor" else (PACKAGE, PATHS[name])
    server = stack.enter_context(serving(app, core))
    return record(server, name, seconds, options, lambda s: measure(Target(server.port, path), server.cpu_s, seconds=s))


def record_broadcast(name: str, core: int, seconds: float, options: list[str], stack: ExitStack) -> Counter[str]:
    """Record a server that tells open streams of one change after the other."""
    raise_file_limit()
    opened: Opened = open_streams(FANOUT, STREAMS, core, stack)
    return record(opened.server, name, seconds, options, lambda s: run_round(opened, s))


def main() -> None:
    """Record, and print where the time went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", nargs="?", default="event", choices=[*PATHS, "broadcast", "floor"])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two recordings")
    parser.add_argument("--no-file", action="store_true", help="print only, write no result file")
    parser.add_argument("--native", action="store_true", help="functions in C as well, each for itself")
    arguments, before = parser.parse_args(), report.environment()
    options = ["--native"] if arguments.native else []
    take = record_broadcast if arguments.load == "broadcast" else record_events
    with ExitStack() as stack:
        found = take(arguments.load, take_load_core(), arguments.seconds, options, stack)
    packages, functions = shares(by_package(found)), shares(found)
    print(table("package", packages) + "\n\n" + table("function", functions))
    print(f"{found.total()} samples; flame graph: {(FOLDER / arguments.load).relative_to(report.ROOT)}.svg")
    if not arguments.no_file:
        content = {"samples": found.total(), "packages": packages, "functions": functions}
        report.write_result(f"profile-{arguments.load}", before, content)


if __name__ == "__main__":
    main()
