"""The commands do what they say, and their exit status tells scripts whether they did."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from faststate_asgi import FastState, ReactiveState, StateConfig, StateRegistry, StateScope
from faststate_asgi.__main__ import main
from tests import services

SECRET = "only-for-command-line-tests-" + "x" * 32
STORE = "sqlite+aiosqlite:///app.db"
APP = """
from faststate_asgi import FastStateMiddleware, ReactiveState, StateConfig, StateScope, StateRegistry, event

registry = StateRegistry()


class Document(ReactiveState):
    title: str = ""

    @event
    def rename(self, title: str): ...

    @event("/titles/{number:int}", method="put")
    def renumber(self, number: int): ...


registry.register(Document, StateConfig(scope=StateScope.RECORD, public=PUBLIC))


async def site(scope, receive, send): ...


async def outer(scope, receive, send): ...


app = FastStateMiddleware(site, registry=registry, secret_key="k" * 32, mount_path="/live", store="STORE")
outer.app = app
"""


class Passing(ReactiveState):
    """Goes soon."""

    word: str = ""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, and no setting from outside."""
    for name in ("STORE", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DEBUG"):
        monkeypatch.delenv(f"FASTSTATE_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def tables(path: Path) -> set[str]:
    """Return the names of a file's tables."""
    connection = sqlite3.connect(path)
    try:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell would."""
    command = [sys.executable, "-m", "faststate_asgi", *arguments]
    environment = services.site_environment(env)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


# -- create-tables -------------------------------------------------------------------------------------------------------


def test_create_tables_makes_them_once_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create-tables", "--store", STORE]) == 0
    made = tables(folder / "app.db")
    assert {"faststate_state", "faststate_lease", "faststate_answer", "faststate_record"} <= made
    assert main(["create-tables", "--store", STORE]) == 0
    assert tables(folder / "app.db") == made
    assert capsys.readouterr().out == "the tables are there\n" * 2


def test_the_database_comes_from_the_environment_too(folder: Path) -> None:
    for number, name in enumerate(("FASTSTATE_STORE", "FASTSTATE_DATABASE_URL")):
        finished = run("create-tables", cwd=folder, **{name: f"sqlite+aiosqlite:///{number}.db"})
        assert (finished.returncode, finished.stdout) == (0, "the tables are there\n"), finished.stderr
        assert "faststate_state" in tables(folder / f"{number}.db")


def test_the_option_wins_over_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSTATE_STORE", "sqlite+aiosqlite:///other.db")
    assert main(["create-tables", "--store", STORE]) == 0
    assert (folder / "app.db").is_file()
    assert not (folder / "other.db").exists()


@pytest.mark.parametrize("store", ["memory:", "redis://127.0.0.1:1/0"])
def test_without_a_database_there_are_no_tables_to_make(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create-tables", "--store", store]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: there is no database: set FASTSTATE_STORE")


@pytest.mark.postgres
def test_create_tables_works_on_postgres(postgres_url: str) -> None:
    assert main(["create-tables", "--store", postgres_url]) == 0
    assert main(["create-tables", "--store", postgres_url]) == 0


@pytest.mark.parametrize(
    "store",
    [
        "mysql://u:hidden@h/db",
        "sqlite+aiosqlite",
        "postgresql+asyncpg:u:hidden@h",
        "sqlite+aiosqlite:////no/such/folder/app.db",
        "postgresql+asyncpg://u:hidden@127.0.0.1:1/db",
    ],
)
@pytest.mark.parametrize("command", ["create-tables", "purge"])
def test_a_place_that_cannot_work_is_one_sentence_and_status_2(folder: Path, command: str, store: str) -> None:
    finished = run(command, "--store", store, cwd=folder)
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert "hidden" not in line


# -- purge ---------------------------------------------------------------------------------------------------------------


async def store_some(count: int, ttl_s: float) -> None:
    """Store states that go after some time, and one that stays."""
    registry = StateRegistry()
    registry.register(Passing, StateConfig(scope=StateScope.RECORD, public=True, ttl=ttl_s))
    async with FastState(registry=registry, store=STORE, secret_key=SECRET) as faststate:
        for number in range(count):
            async with faststate.transaction(Passing, record_id=number) as state:
                state.word = "soon gone"


def expire_all(path: Path) -> None:
    """Let the time of everything in a file be over."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE faststate_state SET expires_at = 1 WHERE expires_at IS NOT NULL")
    connection.close()


def test_purge_deletes_what_has_expired_and_counts_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["create-tables", "--store", STORE])
    asyncio.run(store_some(7, 3600))
    capsys.readouterr()
    assert main(["purge", "--store", STORE]) == 0
    assert capsys.readouterr().out == "0 expired entries deleted\n"
    expire_all(folder / "app.db")
    assert main(["purge", "--store", STORE]) == 0
    assert capsys.readouterr().out == "7 expired entries deleted\n"
    assert main(["purge", "--store", STORE]) == 0
    assert capsys.readouterr().out == "0 expired entries deleted\n"


def test_purge_without_tables_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge", "--store", STORE]) == 2
    assert "python -m faststate_asgi create-tables" in capsys.readouterr().err


def test_purge_says_when_redis_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge", "--store", f"redis://127.0.0.1:{services.free_port()}/0"]) == 2
    assert "Redis does not answer" in capsys.readouterr().err


def test_purge_has_nothing_to_do_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge"]) == 0
    assert capsys.readouterr().out == "0 expired entries deleted\n"


# -- routes and check ----------------------------------------------------------------------------------------------------


def write_app(folder: Path, *, public: bool, store: str = "memory:") -> None:
    """Write a site with one state of records."""
    (folder / "site_of_the_test.py").write_text(APP.replace("PUBLIC", str(public)).replace('"STORE"', repr(store)))


def test_routes_lists_every_event_with_its_method_address_and_scope(folder: Path) -> None:
    write_app(folder, public=True)
    finished = run("routes", "site_of_the_test:app", cwd=folder)
    assert finished.returncode == 0, finished.stderr
    assert [line.split() for line in finished.stdout.splitlines()] == [
        ["POST", "/live/events/Document/rename", "(record)"],
        ["PUT", "/live/events/titles/{number:int}", "(record)"],
    ]


def test_the_attribute_is_app_unless_it_is_named_and_wrapping_is_looked_through(folder: Path) -> None:
    write_app(folder, public=True)
    short, outer = (run("routes", name, cwd=folder) for name in ("site_of_the_test", "site_of_the_test:outer"))
    assert short.returncode == outer.returncode == 0, short.stderr + outer.stderr
    assert short.stdout == outer.stdout != ""


def test_check_is_content_with_an_app_that_says_what_it_means(folder: Path) -> None:
    write_app(folder, public=True)
    finished = run("check", "site_of_the_test:app", cwd=folder)
    assert (finished.returncode, finished.stdout) == (0, "1 states, 0 findings\n"), finished.stderr


def test_check_reports_findings_by_status_1(folder: Path) -> None:
    write_app(folder, public=False)
    finished = run("check", "site_of_the_test:app", cwd=folder)
    assert finished.returncode == 1
    finding, summary = finished.stdout.splitlines()
    assert finding.startswith("Document: everybody can walk through its records")
    assert summary == "1 states, 1 findings"


def test_check_connects_to_nothing(folder: Path) -> None:
    write_app(folder, public=True, store="redis://127.0.0.1:1/0")
    assert run("check", "site_of_the_test:app", cwd=folder).returncode == 0


@pytest.mark.parametrize("command", ["routes", "check"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:app", "cannot be imported as module:attribute"),
        ("site_of_the_test:missing", "cannot be imported as module:attribute"),
        ("site_of_the_test:site", "is not wrapped in FastStateMiddleware"),
    ],
)
def test_an_app_that_is_none_is_one_sentence_and_status_2(folder: Path, command: str, name: str, reason: str) -> None:
    write_app(folder, public=True)
    finished = run(command, name, cwd=folder)
    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"error: {name} ")
    assert reason in line


# -- around --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["routes"], ["check", "a", "b"], ["purge", "--colour"]])
def test_a_command_that_is_none_shows_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: python -m faststate_asgi" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for command in ("create-tables", "purge", "routes", "check"):
        assert command in shown


def test_a_setting_that_is_not_known_is_one_sentence(folder: Path) -> None:
    finished = run("purge", cwd=folder, FASTSTATE_COLOUR="red")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: unknown setting 'FASTSTATE_COLOUR'")


def test_create_tables_with_an_app_makes_the_tables_of_its_states(folder: Path) -> None:
    (folder / "shop.py").write_text(
        APP.replace("STORE", STORE)
        .replace("PUBLIC", "True")
        .replace("class Document(ReactiveState):", "class Document(ReactiveState, table=True):\n    id: int = Key()")
        .replace(
            "from faststate", "from sqlmodel import Field\nKey = lambda: Field(primary_key=True)\nfrom faststate", 1
        )
    )
    made = subprocess.run(
        [sys.executable, "-m", "faststate_asgi", "create-tables", "shop:app"],
        cwd=folder,
        env=services.site_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (made.returncode, made.stdout) == (0, "the tables are there\n"), made.stderr
    connection = sqlite3.connect(folder / "app.db")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert {"document", "faststate_row", "faststate_state"} <= tables
