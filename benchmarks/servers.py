"""Starts uvicorn with one app on one core in a process of its own, and reads what that process spends.

Run as a module (`python -m benchmarks.servers benchmarks.floor:events --port 8000 --core 0`) it is it.
"""

import argparse
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from benchmarks.report import ROOT

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 10.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Server:
    """One running server process; lives as long as the `serving` block that made it."""

    app: str
    port: int
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """Return the processor seconds that the server has used so far, all its threads together."""
        # The kernel's clock of another process (clock_getcpuclockid): nanoseconds, not 10 ms.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def rss_bytes(self) -> int:
        """Return the memory of the server that is resident now."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * PAGE_BYTES


def take_load_core() -> int:
    """Move this process to the last core it may use and return the first, the servers'; call it once."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    return min(cores)


def raise_file_limit() -> int:
    """Allow as many open files as the system lets this process have, and return that number."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def be_server(core: int) -> None:
    """Make this process a server: on this core only, with as many files as it may have."""
    os.sched_setaffinity(0, {core})
    raise_file_limit()


@contextmanager
def serving(app: str, core: int, python: str = sys.executable) -> Iterator[Server]:
    """Serve an app for the length of the block, pinned to one core.

    Args:
        app: the import string of an ASGI app, or the name of a module that is a server itself.
        core: where it runs.
        python: the interpreter, of another environment for an app that has its own.

    Raises:
        RuntimeError: the server did not come up; its own message is on standard error.
    """
    port = free_port()
    module = "benchmarks.servers" if ":" in app else app
    command = [python, "-m", module, app, "--port", str(port), "--core", str(core)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        _wait_until_listening(app, port, process)
        yield Server(app, port, process)
    finally:
        _stop(process)


def _wait_until_listening(app: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the port accepts a connection."""
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server for {app} did not start within {START_DEADLINE_S:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server: asked first, killed if it does not leave."""
    process.terminate()
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def parse_server_arguments() -> argparse.Namespace:
    """Read what `serving` puts on the command line of a server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("app")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--core", type=int, required=True)
    return parser.parse_args()


def serve(app: Any, port: int, core: int) -> None:
    """Serve one app until the process is ended: uvloop, httptools, one worker, no access log."""
    be_server(core)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        workers=1,
        access_log=False,
        log_level="warning",
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    asked = parse_server_arguments()
    serve(asked.app, asked.port, asked.core)
