"""Two machines whose clocks are ten minutes apart are one site: nobody is logged out, nothing goes back or expires early."""

import asyncio
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from tests.apps.shared_clients import APP, Tab, new_client, post, settings_of, store_of, visitor
from tests.conftest import Serve
from tests.services import SiteServer, find_faketime, require

pytestmark = pytest.mark.anyio
KINDS = [
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.full]),
]


@pytest.fixture(params=KINDS)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind that machines share."""
    return store_of(request, tmp_path)


async def serve_at(serve: Serve, store_url: str, offset_s: int) -> SiteServer:
    """Return a server whose clock is wrong by so many seconds; that of the store is right."""
    library = find_faketime()
    require("libfaketime", library is not None)
    clock = {"LD_PRELOAD": str(library), "FAKETIME": f"{offset_s:+}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return await asyncio.to_thread(serve, APP, env=settings_of(store_url) | clock | {"TTL_S": "30"})


async def time_at(client: httpx.AsyncClient, site: SiteServer) -> datetime:
    """Return what time a server thinks it is."""
    return parsedate_to_datetime((await client.get(site.url + "/faststate/health")).headers["date"])


@pytest.mark.parametrize("clicks", [40, pytest.param(1000, marks=[pytest.mark.full, pytest.mark.timeout(400)])])
async def test_r33_clocks_that_are_ten_minutes_apart_log_nobody_out_and_bring_nothing_back(
    serve: Serve, store_url: str, clicks: int
) -> None:
    early, late = await asyncio.gather(*(serve_at(serve, store_url, offset) for offset in (-300, 300)))
    async with new_client() as client:
        apart = await time_at(client, late) - await time_at(client, early)
        assert 590 < apart.total_seconds() < 610
    for here, there in ((early, late), (late, early)):
        async with new_client() as person:
            await visitor(person, here.url)
            await post(person, there.url, "Own/bump")
            assert (await person.get(here.url + "/")).text.endswith(" 1"), "one session at both"
            answer = await post(person, here.url, "Own/log_in", user="ann")
            assert answer.status_code in (200, 204)
            cookies = dict(person.cookies)
            async with Tab(here.url, "Counter,Mine", cookies) as one, Tab(there.url, "Counter,Mine", cookies) as two:
                seen: list[list[int]] = [[], []]
                for number in range(clicks):
                    site = (here, there)[number % 2]
                    for event, data in (("Mine/write", {"note": str(number)}), ("Counter/bump", {})):
                        answer = await post(person, site.url, event, f"{site.port}-{event}-{number}", **data)
                        assert answer.status_code == 200, answer.text
                    for tab, values in zip((one, two), seen, strict=True):
                        await tab.shows("Mine.note", str(number))
                        values.append(tab.value("Counter.count") or 0)
                for tab, values in zip((one, two), seen, strict=True):
                    assert values == sorted(values)
                    assert (tab.opened, tab.statuses) == (1, [200])
    async with new_client() as client:
        for here in (early, late):
            await post(client, here.url, "Brief/say", word=f"said at {here.port}")
            for site in (early, late):
                words = (await client.get(site.url + "/words")).text
                assert words.startswith(f"said at {here.port}"), "30 s are not over at the store"
