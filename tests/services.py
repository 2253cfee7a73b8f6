"""Real servers for the tests: Redis, PostgreSQL, nginx and uvicorn, each stopped by its process id; and Chromium.

The fixtures over them are in `conftest.py`. Nothing here knows the package.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATASTAR_BUNDLE = ROOT / ".cache" / "datastar" / "datastar.js"
START_DEADLINE_S = 30.0
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def in_ci() -> bool:
    """Returns whether this run must not skip anything."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def require(name: str, present: bool) -> None:
    """Returns when the thing is present; else the test is skipped for that reason, fails under `CI=true`."""
    if not present:
        absent(name)


def absent(name: str) -> NoReturn:
    """Skips the test, or fails it under `CI=true`, because something is missing on this machine."""
    reason = f"{name} is missing on this machine"
    if in_ci():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@dataclass(slots=True)
class Running:
    """A server process of its own process group; whoever started it closes it with `stop`."""

    process: subprocess.Popen[bytes]
    port: int
    log_path: Path
    stop_signal: signal.Signals = signal.SIGTERM

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All that the process has printed so far."""
        return self.log_path.read_text(errors="replace")

    def terminate(self) -> None:
        """Asks the process to leave."""
        self.process.terminate()

    def kill(self) -> None:
        """Ends the process as a power cut would."""
        self.process.kill()

    def wait(self, timeout: float = 10.0) -> int:
        """Returns the exit code once the process has left; raises `subprocess.TimeoutExpired` if it stays."""
        return self.process.wait(timeout)

    def stop(self) -> None:
        """Ends the process and what it has spawned; a second call does nothing."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with suppress(ProcessLookupError, PermissionError):  # usually nobody of the group is left
            os.killpg(self.process.pid, signal.SIGKILL)


@dataclass(slots=True)
class RedisServer(Running):
    """A redis-server without any data of another test run."""

    @property
    def url(self) -> str:
        """The address in the form that settings take."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, *words: str) -> bytes:
        """Returns the raw first answer to one command, without any client library."""
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
            sock.sendall(b"*%d\r\n%s" % (len(words), parts))
            return sock.recv(4096)


@dataclass(slots=True)
class PostgresServer(Running):
    """A PostgreSQL cluster of its own, open to everybody on this machine for the time of the tests."""

    binaries: Path = Path()

    def url_of(self, database: str) -> str:
        """Returns the address of one database in the form that settings take."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def url(self) -> str:
        """The address of the database that every cluster has."""
        return self.url_of("postgres")

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Yields the address of a new empty database, gone afterwards, whoever is still connected."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._run("createdb", name)
        try:
            yield self.url_of(name)
        finally:
            if self.process.poll() is None:
                self._run("dropdb", "--force", name)

    def _run(self, tool: str, *args: str) -> None:
        where = ["--host=127.0.0.1", f"--port={self.port}", "--username=postgres"]
        subprocess.run([self.binaries / tool, *where, *args], check=True, capture_output=True, timeout=30)


@dataclass(slots=True)
class SiteServer(Running):
    """A uvicorn process that serves one app."""

    @property
    def url(self) -> str:
        """The base address, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"


def spawn(
    command: list[str],
    log_path: Path,
    *,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Returns a started process that leads its own process group and prints into a file."""
    account = pwd.getpwnam(user) if user else None
    with log_path.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
            cwd=cwd,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )


def await_ready(server: Running, answers: Callable[[], bool], deadline_s: float = START_DEADLINE_S) -> None:
    """Returns when the server answers.

    Raises:
        RuntimeError: it left, or did not answer in time; the message holds what it printed.
    """
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server left with {server.process.returncode}:\n{server.log}")
        try:
            if answers():
                return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.02)  # another program's start can only be polled
    raise RuntimeError(f"the server did not answer within {deadline_s} s:\n{server.log}")


R = TypeVar("R", bound=Running)


@contextmanager
def started(server: R, answers: Callable[[], bool]) -> Iterator[R]:
    """Yields the server once it answers, and stops it in the end whatever happens."""
    try:
        await_ready(server, answers)
        yield server
    finally:
        server.stop()


@contextmanager
def temporary_folder(owner: str | None = None) -> Iterator[Path]:
    """Yields a new folder that everybody may enter; its name is short, as socket paths end at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fs-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        if owner:
            shutil.chown(folder, owner)
        yield folder


@contextmanager
def redis_running(*config: str, port: int | None = None) -> Iterator[RedisServer]:
    """Yields a redis-server of its own; `config` are further arguments such as `"--maxmemory", "1mb"`."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    require("redis-server", program is not None)
    port = port or free_port()
    base = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with temporary_folder() as folder:
        process = spawn([*base, "--dir", str(folder), *config], folder / "redis.log")
        server = RedisServer(process, port, folder / "redis.log")
        with started(server, lambda: server.command("PING").startswith((b"+PONG", b"-NOAUTH"))):
            yield server


def find_postgres() -> Path | None:
    """Returns the folder of the newest PostgreSQL's programs, or None."""
    known = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(known[-1]) if known else shutil.which("initdb")
    return Path(found).parent if found else None


def unprivileged_user() -> str | None:
    """Returns the account that PostgreSQL must run as, or None where this process already is not root."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        absent("the account `postgres`")


@contextmanager
def postgres_running(*config: str, port: int | None = None) -> Iterator[PostgresServer]:
    """Yields a new PostgreSQL cluster; `config` are further arguments such as `"-c", "work_mem=1MB"`."""
    binaries = find_postgres()
    if binaries is None:
        absent("PostgreSQL")
    user = unprivileged_user()
    port = port or free_port()
    with temporary_folder(user) as folder:
        data, log = folder / "data", folder / "postgres.log"
        init = [
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        made = spawn([*init, "--no-sync"], log, user=user, cwd=folder)
        if made.wait(60) != 0:
            raise RuntimeError(f"initdb failed:\n{log.read_text()}")
        # Nobody needs these data after a power cut, so the cluster need not wait for the disk.
        base = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), "-F"]
        process = spawn([*base, "-c", "listen_addresses=127.0.0.1", *config], log, user=user, cwd=folder)
        server = PostgresServer(process, port, log, signal.SIGINT, binaries)
        probe = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        with started(server, lambda: subprocess.run(probe, check=False, timeout=10).returncode == 0):
            yield server


def http_answers(url: str) -> bool:
    """Returns whether something at the address answers HTTP, with whatever status."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    return True


def site_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns this environment without FASTSTATE_ settings, the repository importable, `env` on top."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTSTATE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}


@contextmanager
def site_running(
    app: str,
    *args: str,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    cwd: Path = ROOT,
    ready_path: str = "/faststate/health",
) -> Iterator[SiteServer]:
    """Yields uvicorn serving `module:attribute` once it answers a request for `ready_path` with any status.

    Args:
        app: what uvicorn imports.
        args: further arguments of uvicorn, such as `"--workers", "2"`.
        env: variables on top of this process's; FASTSTATE_ settings are not inherited.
        port: a fixed port, to start a server again in the same place.
        cwd: where it runs; the repository is importable from everywhere.
        ready_path: what is asked until it answers.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), *args]
    with temporary_folder() as folder:
        log = folder / "uvicorn.log"
        server = SiteServer(spawn(command, log, env=site_environment(env), cwd=cwd), port, log)
        with started(server, lambda: http_answers(server.url + ready_path)):
            yield server


NGINX_CONFIGURATION = Path("/etc/nginx/nginx.conf")


def nginx_configuration(folder: Path, port: int, upstream_port: int, directives: str) -> str:
    """Returns the configuration that nginx was installed with, without its sites, with one that passes everything on."""
    text = NGINX_CONFIGURATION.read_text()
    text = re.sub(r"(?m)^(user|pid|error_log)\b.*$|^\s*access_log\b.*$|^.*include /etc/nginx/(conf|sites).*$", "", text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    location = f"location / {{ proxy_pass http://127.0.0.1:{upstream_port}; {directives} }}"
    site = f"access_log off;\n{temporary}server {{ listen 127.0.0.1:{port}; {location} }}\n"
    user = "user root;\n" if os.getuid() == 0 else ""
    return f"{user}pid {folder}/nginx.pid;\nerror_log stderr;\n" + re.sub(r"(?m)^http \{$", f"http {{\n{site}", text)


@contextmanager
def nginx_running(upstream_port: int, directives: str = "") -> Iterator[SiteServer]:
    """Yields nginx in front of a server, as Debian configures it; `directives` are further ones of its location."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    require("nginx", program is not None and NGINX_CONFIGURATION.is_file())
    port = free_port()
    with temporary_folder() as folder:
        configuration = folder / "nginx.conf"
        configuration.write_text(nginx_configuration(folder, port, upstream_port, directives))
        # Modules that are installed besides are named relative to the prefix.
        (folder / "modules").symlink_to("/usr/lib/nginx/modules")
        command = [str(program), "-e", "stderr", "-c", str(configuration), "-p", str(folder), "-g", "daemon off;"]
        server = SiteServer(spawn(command, folder / "nginx.log"), port, folder / "nginx.log")
        with started(server, lambda: http_answers(server.url)):
            yield server


def find_faketime() -> Path | None:
    """Returns the library that lies to a process about the time, or None."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def find_chromium() -> str | None:
    """Returns the path of the machine's Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
