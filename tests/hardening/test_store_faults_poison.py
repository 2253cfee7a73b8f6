"""Bytes in the store that are no state: their key fails alone and is reported, nothing is unpickled or imported."""

import asyncio
import pickle
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis as redis_client

from tests.apps.shared_clients import Tab, new_client, post, serve_many, settings_of
from tests.conftest import Serve
from tests.services import SiteServer

pytestmark = pytest.mark.anyio
RESYNC_S = 0.4
MARK = "unpickled"


class Mine:
    """Leaves a file where somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def poisons(tmp_path: Path) -> dict[str, bytes]:
    """Return what may be found in the place of a state."""
    return {
        "pickle": pickle.dumps(Mine(tmp_path / MARK)),
        "cut off": b'{"count": 1',
        "a list": b"[1, 2]",
        "another type": b'{"count": "many"}',
        "a class": b'{"__class__": "os.system", "count": {"py/object": "os.system"}}',
        "nothing": b"",
        "deep": b'{"count": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    }


async def check_alone(site: SiteServer, plant: Callable[[str, bytes | None], Awaitable[None]], tmp_path: Path) -> None:
    """Spoil one record in every way while it is watched: it fails alone, and works again when it is gone."""
    async with new_client() as client, Tab(site.url, "Item:8") as other, Tab(site.url, "Item:7,Item:8") as both:
        for record in (6, 7, 8):
            assert (await post(client, site.url, f"Item/bump?record_id={record}")).status_code == 200
        await other.until(lambda tab: tab.value("Item.8.count") == 1)
        await both.until(lambda tab: tab.value("Item.7.count") == 1)
        silent = 10
        for name, data in poisons(tmp_path).items():
            await plant("7", data)
            answer = await post(client, site.url, "Item/bump?record_id=7")
            assert answer.status_code in (500, 503), (name, answer.status_code, answer.text)
            assert "Traceback" not in answer.text
            await plant("6", data)
            assert (await client.get(f"{site.url}/faststate/sse?states=Item:6")).status_code in (500, 503), name
            silent += 1
            await plant("8", b'{"count": %d}' % silent)
            await other.shows("Item.8.count", silent, RESYNC_S + 2)
            assert (await post(client, site.url, "Item/bump?record_id=9")).status_code == 200
        letters = [first + second for first in "abcdefghijk" for second in "abcdefghi"]
        fine = await asyncio.gather(*(post(client, site.url, f"Item/bump?record_id={name}") for name in letters))
        assert {answer.status_code for answer in fine} == {200}, "ninety-nine others"
        assert "Item" in site.log
        assert "cannot be read" in site.log or "Traceback" in site.log
        assert not (tmp_path / MARK).exists()
        await plant("7", None)
        answer = await post(client, site.url, "Item/bump?record_id=7")
        assert answer.status_code == 200, answer.text
        await both.until(lambda tab: tab.value("Item.7.count") == 1, RESYNC_S + 3)
        assert both.opened == 1


async def test_spoilt_bytes_in_sqlite_spoil_one_key_only(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    (site,) = await serve_many(serve, 1, settings_of(f"sqlite+aiosqlite:///{path}", resync_interval=RESYNC_S))
    number = 0

    async def plant(record: str, data: bytes | None) -> None:
        nonlocal number
        number += 1
        connection = sqlite3.connect(path, timeout=5)
        with connection:
            (key,) = connection.execute(
                "SELECT key FROM faststate_state WHERE key LIKE ?", (f"%Item%{record}%",)
            ).fetchone()
            if data is None:
                connection.execute("DELETE FROM faststate_state WHERE key = ?", (key,))
            else:
                values = (data, f"{number + 50}-0badc0de", key)
                connection.execute("UPDATE faststate_state SET data = ?, version = ? WHERE key = ?", values)
        connection.close()

    await check_alone(site, plant, tmp_path)


@pytest.mark.redis
async def test_spoilt_bytes_in_redis_spoil_one_key_only(serve: Serve, redis_url: str, tmp_path: Path) -> None:
    """Who can write into the store would run code in the server, or stop it."""
    (site,) = await serve_many(serve, 1, settings_of(redis_url, resync_interval=RESYNC_S))
    number = 0

    async def plant(record: str, data: bytes | None) -> None:
        nonlocal number
        number += 1
        with redis_client.Redis.from_url(redis_url) as client:
            (name,) = client.keys(f"fs:*Item*{record}*:s")
            if data is None:
                client.delete(name)
            else:
                client.hset(name, mapping={"v": f"{number + 50}-0badc0de", "d": data})

    await check_alone(site, plant, tmp_path)


@pytest.mark.postgres
async def test_spoilt_text_in_postgres_spoils_one_key_only(serve: Serve, postgres_url: str, tmp_path: Path) -> None:
    (site,) = await serve_many(serve, 1, settings_of(postgres_url, resync_interval=RESYNC_S))
    number = 0

    async def plant(record: str, data: bytes | None) -> None:
        nonlocal number
        number += 1
        connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
        try:
            key = await connection.fetchval("SELECT key FROM faststate_state WHERE key LIKE $1", f"%Item%{record}%")
            if data is None:
                await connection.execute("DELETE FROM faststate_state WHERE key = $1", key)
            else:
                # PostgreSQL refuses a text that is none, so what is no text is planted as its nearest text.
                text = data.replace(b"\0", b"").decode("latin-1")
                await connection.execute(
                    "UPDATE faststate_state SET data = $1, version = $2 WHERE key = $3",
                    text,
                    f"{number + 50}-0badc0de",
                    key,
                )
        finally:
            await connection.close()

    await check_alone(site, plant, tmp_path)


@pytest.mark.redis
@pytest.mark.parametrize("how", ["another kind of value", "a version that is no text"])
async def test_a_redis_key_of_another_form_spoils_no_other_key(serve: Serve, redis_url: str, how: str) -> None:
    (site,) = await serve_many(serve, 1, settings_of(redis_url, resync_interval=RESYNC_S))
    async with new_client() as client, Tab(site.url, "Item:8") as other, Tab(site.url, "Item:7") as spoilt:
        for record in (7, 8):
            assert (await post(client, site.url, f"Item/bump?record_id={record}")).status_code == 200
        await other.shows("Item.8.count", 1)
        await spoilt.shows("Item.7.count", 1)
        with redis_client.Redis.from_url(redis_url) as store:
            (seven,), (eight,) = store.keys("fs:*Item*7*:s"), store.keys("fs:*Item*8*:s")
            if how == "another kind of value":
                store.set(seven, b"\x80\x04no hash")
            else:
                store.hset(seven, mapping={"v": b"\xff\xfe", "d": b'{"count": 5}'})
            store.hset(eight, mapping={"v": "77-0badc0de", "d": b'{"count": 5}'})
        await other.shows("Item.8.count", 5, RESYNC_S + 2)
        assert (await post(client, site.url, "Item/bump?record_id=7")).status_code in (500, 503)
        assert (await post(client, site.url, "Item/bump?record_id=8")).status_code == 200
        assert (await post(client, site.url, "Counter/bump")).status_code == 200


async def test_a_spoilt_session_record_or_answer_refuses_its_own_request_only(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    (site,) = await serve_many(serve, 1, settings_of(f"sqlite+aiosqlite:///{path}"))
    async with new_client() as spoilt, new_client() as fine:
        for client, user in ((spoilt, "eve"), (fine, "ann")):
            await client.get(site.url + "/")
            assert (await post(client, site.url, "Own/log_in", user=user)).status_code in (200, 204)
        connection = sqlite3.connect(path, timeout=5)
        with connection:
            payload = pickle.dumps(Mine(tmp_path / MARK))
            done = connection.execute(
                "UPDATE faststate_record SET value = ? WHERE CAST(value AS TEXT) LIKE '%eve%'", (payload,)
            )
            assert done.rowcount == 1
        connection.close()
        answer = await post(spoilt, site.url, "Mine/write", note="x")
        assert answer.status_code in (401, 500, 503)
        assert (await post(fine, site.url, "Mine/write", note="x")).status_code == 200
        assert not (tmp_path / MARK).exists()
