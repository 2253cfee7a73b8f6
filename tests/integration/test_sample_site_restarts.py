"""The sample site keeps its data and its logins over a restart, in whatever store FASTSTATE_STORE names."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import Serve
from tests.services import ROOT, SiteServer, site_environment

SITE = "sample_site.main:app"
SECRET = "only-for-restart-tests-" + "x" * 32
STORES = [
    "sqlite",
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("postgres", marks=pytest.mark.postgres),
]


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/sample.db"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def visitor() -> httpx.Client:
    """Return a browser with an empty cookie jar; cookies do not know ports, so it may follow a site that moves."""
    return httpx.Client(trust_env=False, timeout=30)


def call(client: httpx.Client, site: SiteServer, event: str, **data: object) -> None:
    """Run one event, which must be accepted."""
    answer = client.post(f"{site.url}/faststate/events/{event}", json=data)
    assert answer.status_code in (200, 204), answer.text


def leave_traces(client: httpx.Client, site: SiteServer) -> None:
    """Count, write, talk, buy, log in and sign."""
    assert client.get(site.url).status_code == 200
    call(client, site, "HomeState/change", amount=4)
    call(client, site, "HomeState/set_note", note="a note that stays")
    call(client, site, "CounterState/increment", amount=7)
    call(client, site, "ChatState/say", name="Ada", text="Is this kept?")
    call(client, site, "ProductState/buy?record_id=compass")
    answer = client.post(f"{site.url}/login", data={"name": "ada", "password": "lovelace"})
    assert answer.status_code == 303, answer.text
    call(client, site, "ReportState/sign")


def assert_traces_are_there(client: httpx.Client, site: SiteServer) -> None:
    """Find all of it in the pages."""
    home = client.get(site.url).text
    assert ">4</output>" in home
    assert "a note that stays" in home
    assert "Logged in as" in home
    assert ">7</output>" in client.get(f"{site.url}/counter").text
    chat = client.get(f"{site.url}/chat").text
    assert "Is this kept?" in chat
    assert 'value="Ada"' in chat
    assert ">11</span>" in client.get(f"{site.url}/product/compass").text
    reports = client.get(f"{site.url}/reports")
    assert reports.status_code == 200
    assert ">ada</span>" in reports.text


def test_data_and_logins_survive_a_restart(serve: Serve, store_url: str) -> None:
    env = {"FASTSTATE_STORE": store_url, "FASTSTATE_SECRET_KEY": SECRET, "FASTSTATE_DEBUG": "true"}
    with visitor() as client:
        first = serve(SITE, env=env)
        leave_traces(client, first)
        assert_traces_are_there(client, first)
        first.stop()
        second = serve(SITE, env=env)
        assert_traces_are_there(client, second)
        call(client, second, "CounterState/increment", amount=1)
        assert ">8</output>" in client.get(f"{second.url}/counter").text


def test_a_process_that_was_killed_loses_nothing_that_it_acknowledged(serve: Serve, store_url: str) -> None:
    env = {"FASTSTATE_STORE": store_url, "FASTSTATE_SECRET_KEY": SECRET, "FASTSTATE_DEBUG": "true"}
    with visitor() as client:
        first = serve(SITE, env=env)
        leave_traces(client, first)
        first.kill()
        first.wait()
        assert_traces_are_there(client, serve(SITE, env=env))


def test_the_debug_key_of_make_run_survives_too(serve: Serve, tmp_path: Path) -> None:
    env = {"FASTSTATE_STORE": "sqlite+aiosqlite:///sample.db", "FASTSTATE_DEBUG": "true"}
    with visitor() as client:
        first = serve(SITE, env=env, cwd=tmp_path)
        leave_traces(client, first)
        first.stop()
        assert_traces_are_there(client, serve(SITE, env=env, cwd=tmp_path))
    assert (tmp_path / "sample.db").is_file()


def create_tables(cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command that the container runs before its server."""
    command = [sys.executable, "-m", "faststate_asgi", "create-tables"]
    return subprocess.run(
        command, cwd=cwd, env=site_environment(env), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_without_debug_the_tables_come_from_the_command(serve: Serve, tmp_path: Path, workers: int) -> None:
    env = {"FASTSTATE_STORE": "sqlite+aiosqlite:///sample.db", "FASTSTATE_SECRET_KEY": SECRET}
    made = create_tables(tmp_path, env)
    assert made.returncode == 0, made.stderr
    again = create_tables(tmp_path, env)
    assert again.returncode == 0, again.stderr
    with visitor() as client:
        site = serve(SITE, "--workers", str(workers), env=env, cwd=tmp_path)
        leave_traces(client, site)
        assert_traces_are_there(client, site)


def test_without_tables_and_without_debug_the_site_does_not_start_and_names_the_command(
    serve: Serve, tmp_path: Path
) -> None:
    env = {"FASTSTATE_STORE": "sqlite+aiosqlite:///sample.db", "FASTSTATE_SECRET_KEY": SECRET}
    with pytest.raises(RuntimeError, match="the server left") as left:
        serve(SITE, env=env, cwd=tmp_path)
    assert "python -m faststate_asgi create-tables" in str(left.value)


def test_make_run_and_the_container_use_a_file_unless_told_otherwise() -> None:
    assert "FASTSTATE_STORE:-sqlite+aiosqlite:///" in (ROOT / "Makefile").read_text()
    assert "FASTSTATE_STORE=sqlite+aiosqlite:///" in (ROOT / "Dockerfile").read_text()
    assert "FASTSTATE_STORE:-sqlite+aiosqlite:///" in (ROOT / "compose.yaml").read_text()
