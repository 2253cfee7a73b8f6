"""Every door under every right, at two processes on one store: what one allows or refuses, the other does too."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.apps.shared_clients import new_client, settings_of
from tests.conftest import Serve

pytestmark = pytest.mark.anyio
APP = "tests.apps.doors_site:app"
LOGINS: dict[str, tuple[list[str], list[str]] | None] = {
    "nobody": None,
    "ada": ([], []),
    "bob": (["papers"], []),
    "admin": (["all"], ["admin"]),
    "eve": (["other"], ["guest"]),
}
# Two users on one record, one on a private one, an administrator, a stranger, and nobody.
TABLE: dict[str, dict[str, int]] = {
    "Open": {"nobody": 200, "ada": 200, "bob": 200, "admin": 200, "eve": 200},
    "Shared": {"nobody": 401, "ada": 200, "bob": 200, "admin": 200, "eve": 403},
    "Private": {"nobody": 401, "ada": 200, "bob": 403, "admin": 403, "eve": 403},
    "Permitted": {"nobody": 401, "ada": 403, "bob": 200, "admin": 200, "eve": 403},
    "Admins": {"nobody": 401, "ada": 403, "bob": 403, "admin": 200, "eve": 403},
    "Members": {"nobody": 401, "ada": 200, "bob": 200, "admin": 200, "eve": 200},
    "Mine": {"nobody": 401, "ada": 200, "bob": 200, "admin": 200, "eve": 200},
}


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def places(request: pytest.FixtureRequest, serve: Serve) -> list[str]:
    """The addresses of one server with its memory, or of two on one Redis."""
    if request.param == "memory":
        return [(await asyncio.to_thread(serve, APP)).url]
    env = settings_of(request.getfixturevalue("redis_url"))
    return [(await asyncio.to_thread(serve, APP, env=env)).url for _ in range(2)]


@asynccontextmanager
async def visitors(places: list[str]) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """Give a browser to everybody; they log in at the first server."""
    people = {name: new_client() for name in LOGINS}
    for name, client in people.items():
        rights = LOGINS[name]
        if rights is not None:
            await event(client, places[0], "Door/enter", name=name, permissions=rights[0], roles=rights[1])
    await people["nobody"].post(f"{places[0]}/give")
    yield people
    for client in people.values():
        await client.aclose()


async def event(client: httpx.AsyncClient, url: str, path: str, **arguments: Any) -> int:
    return (await client.post(f"{url}/faststate/events/{path}", json=arguments)).status_code


async def stream(client: httpx.AsyncClient, url: str, name: str) -> int:
    async with client.stream("GET", f"{url}/faststate/sse?states={name}") as answer:
        return answer.status_code


async def walk(client: httpx.AsyncClient, url: str, name: str) -> dict[str, int]:
    """Try all doors of one state, and return what each answered."""
    is_record = name not in ("Members", "Mine")
    query, label = ("?record_id=1", f"{name}:1") if is_record else ("", name)
    return {
        "page": (await client.get(f"{url}/read/{name}{query}")).status_code,
        "event": await event(client, url, f"{name}/write{query}"),
        "stream": await stream(client, url, label),
        "transaction": (await client.post(f"{url}/change/{name}{query}")).status_code,
        "a state beside it": await stream(client, url, f"Open:1,{label}"),
    }


async def test_every_pair_of_door_and_right_is_as_the_table_says_at_every_process(places: list[str]) -> None:
    """A door that was forgotten shows or changes what all others guard: another's record, or the administrator's."""
    async with visitors(places) as people:
        wrong: list[str] = []
        for name, expected in TABLE.items():
            for person, status in expected.items():
                for number, url in enumerate(places):
                    found = await walk(people[person], url, name)
                    wrong += [
                        f"{person} at {door} of {name}, process {number}: {seen} instead of {status}"
                        for door, seen in found.items()
                        if seen != status
                    ]
        assert wrong == []
        for name, expected in TABLE.items():
            allowed = sum(status == 200 for status in expected.values())
            reader = people["admin"] if expected["admin"] == 200 else people["ada"]
            query = "" if name in ("Members", "Mine") else "?record_id=1"
            writes = 2 * len(places) * (1 if name == "Mine" else allowed)
            for url in places:
                assert (await reader.get(f"{url}/read/{name}{query}")).text == str(writes), name


async def test_a_login_that_was_ended_everywhere_is_over_at_every_process(places: list[str], slack: float) -> None:
    """Who copied a cookie would go on at the server that did not hear of it."""
    async with visitors(places) as people:
        ada, last = people["ada"], places[-1]
        cookies = dict(ada.cookies)
        async with new_client(cookies=cookies) as thief:
            assert await event(thief, last, "Mine/write") == 200
            async with thief.stream("GET", f"{last}/faststate/sse?states=Mine") as opened:
                chunks = opened.aiter_text()
                await anext(chunks)
                assert (await people["admin"].post(f"{places[0]}/expel/ada")).status_code == 200
                async with asyncio.timeout(1 * slack):
                    async for _ in chunks:
                        pass
            for url in places:
                assert set((await walk(thief, url, "Mine")).values()) == {401}
                assert await event(people["bob"], url, "Mine/write") == 200
