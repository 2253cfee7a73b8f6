"""Sessions, logins, remembered answers and lifetimes are the same at every process of a store."""

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest

from faststate_asgi.backends import worker_count
from tests.apps.shared_clients import (
    APP,
    FEWER_STORES,
    STORES,
    Tab,
    new_client,
    post,
    serve_many,
    settings_of,
    store_of,
    visitor,
)
from tests.conftest import Serve
from tests.services import ROOT, SiteServer, free_port, http_answers, site_environment, spawn

pytestmark = pytest.mark.anyio


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    return store_of(request, tmp_path)


@pytest.fixture
async def pair(serve: Serve, store_url: str) -> list[SiteServer]:
    """Two servers on one store."""
    return await serve_many(serve, 2, settings_of(store_url))


def cookies_of(client: httpx.AsyncClient) -> dict[str, str]:
    """Return the cookies that a client holds."""
    return {cookie.name: cookie.value or "" for cookie in client.cookies.jar}


async def test_a_login_counts_at_the_other_process_and_a_logout_ends_streams_there(
    pair: list[SiteServer], slack: float
) -> None:
    here, there = (site.url for site in pair)
    async with new_client() as client:
        await visitor(client, here)
        assert (await post(client, there, "Mine/write", note="no")).status_code == 401
        await post(client, here, "Own/bump")
        assert (await post(client, here, "Own/log_in", user="ann")).status_code in (200, 204)
        assert (await post(client, there, "Mine/write", note="seen everywhere")).status_code == 200
        assert (await client.get(there + "/")).text.endswith(" 1")
        cookies = cookies_of(client)
        async with Tab(there, "Mine,Own", cookies) as tab:
            await tab.shows("Mine.note", "seen everywhere")
            await post(client, here, "Mine/write", note="changed here")
            await tab.shows("Mine.note", "changed here")
            answer = await post(client, here, "Own/log_out")
            assert answer.status_code in (200, 204)
            await tab.until(lambda tab: tab.value("_faststate.connected") is False or len(tab.statuses) > 1, 1 * slack)
            await tab.until(lambda tab: tab.statuses[-1] == 401)
        async with new_client(cookies=cookies) as thief:
            assert (await post(thief, there, "Mine/write", note="stolen")).status_code == 401


async def test_a_click_sent_again_to_another_process_gets_the_first_answer(pair: list[SiteServer]) -> None:
    here, there = (site.url for site in pair)
    async with new_client() as client:
        await visitor(client, here)
        first = await post(client, here, "Own/bump", "one-click")
        again = await post(client, there, "Own/bump", "one-click")
        assert (again.status_code, again.text) == (first.status_code, first.text)
        assert '"count":1' in again.text
        other = await post(client, there, "Own/bump", "one-click", surplus=1)
        assert other.status_code == 422
        assert (await client.get(there + "/")).text.endswith(" 1")


async def test_the_states_of_a_session_can_be_cleared_at_any_process(pair: list[SiteServer]) -> None:
    here, there = (site.url for site in pair)
    async with new_client() as client, new_client() as other:
        await visitor(client, here)
        await visitor(other, here)
        await post(client, here, "Own/bump")
        await post(other, here, "Own/bump")
        async with Tab(there, "Own", cookies_of(client)) as tab:
            await tab.shows("Own.count", 1)
            assert (await client.get(here + "/forget")).text == "1"
            await tab.shows("Own.count", 0)
        assert (await client.get(there + "/")).text.endswith(" 0")
        assert (await other.get(there + "/")).text.endswith(" 1")
        assert '"count":1' in (await post(client, there, "Own/bump")).text


@pytest.mark.parametrize("store_url", FEWER_STORES, indirect=True)
async def test_states_go_after_their_time_to_live_unless_durable_or_watched(serve: Serve, store_url: str) -> None:
    sites = await serve_many(serve, 2, settings_of(store_url) | {"TTL_S": "1"})
    here, there = (site.url for site in sites)
    loop = asyncio.get_running_loop()
    async with new_client() as client:
        for name in ("Brief", "Kept", "Expiring"):
            assert (await post(client, here, f"{name}/say", word=name)).status_code == 200
        assert (await client.get(there + "/words")).text == "Brief,Kept,Expiring"
        async with Tab(there, "Brief") as tab:
            await tab.shows("Brief.word", "Brief")
            until = loop.time() + 2.2
            while loop.time() < until:
                seen = (await client.get(here + "/words")).text.split(",")
                assert seen[:2] == ["Brief", "Kept"]
                await asyncio.sleep(0.1)
            assert seen == ["Brief", "Kept", ""]
            assert tab.value("Brief.word") == "Brief"
        async with asyncio.timeout(10):
            while (await client.get(here + "/words")).text != ",Kept,":
                await asyncio.sleep(0.1)
        answer = await post(client, here, "Brief/say", word="new")
        assert answer.status_code == 200


@pytest.mark.parametrize("store_url", FEWER_STORES, indirect=True)
async def test_what_has_expired_is_deleted_from_the_store_too(serve: Serve, store_url: str) -> None:
    (site,) = await serve_many(serve, 1, settings_of(store_url) | {"TTL_S": "0.5"})
    async with new_client() as client:
        for name in ("Brief", "Kept"):
            await post(client, site.url, f"{name}/say", word=name)
        async with asyncio.timeout(10):
            while (await client.get(site.url + "/faststate/stats")).json()["stored_states"] != 1:
                await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("command", "env", "workers"),
    [
        ("/bin/uvicorn app:app --workers 2", {}, 2),
        ("/lib/uvicorn/__main__.py app:app --workers=3", {}, 3),
        ("/lib/uvicorn/__main__.py app:app", {"WEB_CONCURRENCY": "4"}, 4),
        ("/lib/uvicorn/__main__.py app:app --workers 1", {"WEB_CONCURRENCY": "4"}, 1),
        ("/lib/uvicorn/__main__.py app:app --reload", {"WEB_CONCURRENCY": "4"}, 1),
        ("/bin/gunicorn -w 4 app:app", {}, 4),
        ("/bin/fastapi run --workers 4", {}, 4),
        ("script.py -w 4", {"WEB_CONCURRENCY": "4"}, 1),
    ],
)
def test_several_workers_are_noticed_however_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, command: str, env: dict[str, str], workers: int
) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", command.split())
    assert worker_count() == workers


@pytest.mark.parametrize(
    ("command", "env"),
    [
        (["-m", "uvicorn", APP, "--workers", "2"], {}),
        pytest.param(["-m", "uvicorn", APP], {"WEB_CONCURRENCY": "2"}, marks=pytest.mark.full),
    ],
    ids=["workers", "environment"],
)
async def test_memory_under_several_workers_is_refused_with_one_sentence_and_a_closed_port(
    tmp_path: Path, command: list[str], env: dict[str, str]
) -> None:
    port, log = free_port(), tmp_path / "log"
    process = spawn(
        [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)],
        log,
        env=site_environment(env),
        cwd=ROOT,
    )
    try:
        await asyncio.to_thread(process.wait, 20)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    told = [line for line in log.read_text().splitlines() if "memory: is not shared" in line]
    assert told
    assert all("sqlite+aiosqlite" in line and "redis://" in line for line in told)
    assert len(told) <= 2 * 2, "each worker says it once, with the server's own line"
    assert "Application startup complete" not in log.read_text()
    with pytest.raises(OSError):
        http_answers(f"http://127.0.0.1:{port}/")


async def test_memory_under_one_reloading_worker_goes_on_working(serve: Serve, tmp_path: Path) -> None:
    site = await asyncio.to_thread(serve, APP, "--reload", "--reload-dir", str(tmp_path))
    async with new_client() as client:
        await visitor(client, site.url)
        assert (await post(client, site.url, "Counter/bump")).status_code == 200


SCRIPT = """
import asyncio, sys, threading
from faststate_asgi import FastState
from tests.apps.shared_site import Counter, Item, make_registry

async def main(url):
    async with FastState(store=url, registry=make_registry()) as faststate:
        async with faststate.transaction(Counter) as counter:
            counter.count += 5
        async with faststate.transaction(Counter, (Item, 7)) as (counter, item):
            counter.count += 1
            item.count += 1

        def work():
            with faststate.sync.transaction(Counter) as counter:
                counter.count *= 7
            with faststate.sync.transaction(Item, record_id=7) as item:
                item.count += 1

        await asyncio.to_thread(work)
        try:
            async with faststate.transaction(Counter) as counter:
                counter.count = -1
                raise KeyError("nothing of this is kept")
        except KeyError:
            pass
        print((await faststate.get(Counter)).count)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_script_without_a_server_changes_open_pages(serve: Serve, store_url: str, tmp_path: Path) -> None:
    sites = await serve_many(serve, 2, settings_of(store_url))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTSTATE_")}
    async with Tab(sites[0].url, "Counter,Item:7") as first, Tab(sites[1].url, "Counter,Item:7") as second:
        await first.shows("Counter.count", 0)
        await second.shows("Counter.count", 0)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SCRIPT,
            store_url,
            env={**environment, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, out.decode().strip()) == (0, "42"), errors.decode()
        for tab in (first, second):
            await tab.shows("Counter.count", 42)
            await tab.until(lambda tab: "2" in str(tab.value("Item")))
