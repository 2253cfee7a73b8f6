"""Events over real connections: many at once lose nothing, a repeated click runs once."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.conftest import Serve

pytestmark = pytest.mark.anyio
APP = "tests.hardening.counter_site:app"
TIMES = 300
LIMITS = httpx.Limits(max_connections=60, max_keepalive_connections=60)


@pytest.mark.parametrize("state", ["Tally", "OwnTally"])
async def test_three_hundred_events_at_once_count_to_three_hundred(serve: Serve, tmp_path: Path, state: str) -> None:
    site = serve(APP, env={"MARKS": str(tmp_path)})
    async with httpx.AsyncClient(base_url=site.url, limits=LIMITS, timeout=60, trust_env=False) as client:
        await client.get("/")
        for round_number, name in enumerate(["add_async", "add_thread", "add_inline"], 1):
            url = f"/faststate/events/{state}/{name}"
            answers = await asyncio.gather(*(client.post(url, json={}) for _ in range(TIMES)))
            assert {answer.status_code for answer in answers} == {200}
            assert any(f'"total":{TIMES * round_number}}}' in answer.text for answer in answers)


async def test_one_click_sent_three_times_runs_once(serve: Serve, tmp_path: Path) -> None:
    site = serve(APP, env={"MARKS": str(tmp_path), "SLOW_S": "0.2"})
    headers = {"idempotency-key": "one-click"}
    url = f"{site.url}/faststate/events/OwnTally/add_slowly"

    async def first_click() -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return await client.post(url, json={}, headers=headers)

    answers = await asyncio.gather(*(first_click() for _ in range(3)))
    assert {answer.text for answer in answers} == {answers[0].text}
    assert '"total":1' in answers[0].text
    assert len({answer.headers["set-cookie"] for answer in answers}) == 1


async def test_a_visitors_page_and_event_share_one_session(serve: Serve, tmp_path: Path) -> None:
    site = serve(APP, env={"MARKS": str(tmp_path)})
    async with httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        assert (await client.get("/")).text == "0"
        answer = await client.post("/faststate/events/OwnTally/add_inline", json={})
        assert "set-cookie" not in answer.headers
        assert (await client.get("/")).text == "1"
    async with httpx.AsyncClient(base_url=site.url, trust_env=False) as stranger:
        assert (await stranger.get("/")).text == "0"


async def test_a_stream_and_pipelined_requests_share_nothing(serve: Serve, tmp_path: Path) -> None:
    site = serve(APP, env={"MARKS": str(tmp_path)})
    async with httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        head = await client.head("/faststate/sse?states=Tally")
        assert head.status_code == 200
        again = await client.get("/faststate/health")
        assert again.json()["status"] == "ok"
