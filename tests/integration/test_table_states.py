"""``table=True`` states are rows that other programs read and write; both see each other's changes, none is lost."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faststate_asgi import (
    ArgumentError,
    ConflictError,
    FastState,
    InvalidStateError,
    LeaseLostError,
    StateKey,
    StateNotFoundError,
    StateScope,
    StoreUnavailableError,
)
from faststate_asgi.testing import FastStateClient
from tests.apps.shared_clients import all_show, new_client, post, serve_many, settings_of, tabs_on
from tests.apps.table_site import Foreign, Front, Goods, Paper, Tallied, Wish, make_app, make_registry
from tests.conftest import Serve

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/tables.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def engine(url: str) -> AsyncIterator[FastState]:
    """The engine of the site, without a server."""
    async with FastState(registry=make_registry(), store=url, debug=True, resync_interval=0.3) as engine:
        yield engine


@pytest.fixture
async def foreign(url: str, engine: FastState) -> Foreign:
    """Another program; the tables are there."""
    return Foreign(url)


# -- rows ----------------------------------------------------------------------------------------------------------


async def test_fields_live_in_their_own_columns(engine: FastState, foreign: Foreign) -> None:
    await foreign.add_goods(1)
    async with engine.transaction(Goods, record_id=1) as goods:
        goods.name, goods.stock, goods.cost = "cake", 3, 9
        goods.tags.append("sweet")
    ((name, stock, cost, tags),) = await foreign.run("SELECT name, stock, cost, tags FROM goods")
    assert (name, stock, cost) == ("cake", 3, 9)
    assert "sweet" in str(tags)


async def test_what_a_turn_wrote_is_read_with_the_version_it_was_given(engine: FastState, foreign: Foreign) -> None:
    await foreign.add_goods(1)
    async with engine.transaction(Goods, record_id=1) as goods:
        goods.name = "cake"
    written = goods.version
    first, second = [await engine.get(Goods, record_id=1) for _ in range(2)]
    assert written == first.version == second.version
    assert written.startswith("1-")


async def test_every_kind_of_column_comes_back_as_it_went(engine: FastState, foreign: Foreign) -> None:
    """Versions would differ from one read to the next if a value changed its form on the way."""
    await foreign.add_goods(1)
    async with engine.transaction(Goods, record_id=1) as goods:
        goods.tag("é\u2028\U0001f600")
        goods.seen_at = goods.noted_at = goods.updated_at
        goods.price, goods.sku = "2.5", ""  # type: ignore[assignment]  # pydantic reads it
    found = await engine.get(Goods, record_id=1)
    assert found.version == goods.version
    assert found.tags == ["é\u2028\U0001f600"]
    assert (found.sku, float(found.price)) == ("", 2.5)
    assert found.updated_at == goods.updated_at
    assert found.updated_at is not None
    assert found.seen_at == found.updated_at
    assert found.noted_at == found.updated_at.replace(tzinfo=None), "a column without time zone holds UTC"


async def test_a_missing_row_is_not_found_and_nothing_makes_it(engine: FastState, foreign: Foreign) -> None:
    with pytest.raises(StateNotFoundError):
        await engine.get(Goods, record_id=5)
    with pytest.raises(StateNotFoundError):
        async with engine.transaction(Goods, record_id=5) as goods:
            goods.name = "made up"
    assert await foreign.run("SELECT * FROM goods") == []


async def test_reading_with_create_stores_nothing_and_writing_makes_the_row(
    engine: FastState, foreign: Foreign
) -> None:
    assert (await engine.get(Wish, user_id="bob")).text == ""
    assert await foreign.run("SELECT * FROM wish") == []
    async with engine.transaction(Wish, user_id="bob") as wish:
        assert wish.user_id == "bob"
        wish.text = "a train"
    assert await foreign.run("SELECT user_id, text FROM wish") == [("bob", "a train")]
    assert (await engine.get(Wish, user_id="eve")).text == ""


async def test_a_global_state_is_one_row(engine: FastState, foreign: Foreign) -> None:
    for _ in range(3):
        async with engine.transaction(Front) as front:
            front.hits += 1
    assert await foreign.run("SELECT id, hits FROM front") == [(1, 3)]


async def test_a_uuid_is_the_same_record_in_every_spelling(engine: FastState) -> None:
    number = uuid.uuid4()
    for spelling in (number, str(number).upper(), number.hex):
        async with engine.transaction(Paper, record_id=spelling) as paper:
            paper.text += "x"
            assert paper.key is not None
            assert paper.key.record_id == str(number)
    assert (await engine.get(Paper, record_id=number)).text == "xxx"


async def test_a_deleted_row_is_gone_and_can_be_made_again(engine: FastState, foreign: Foreign) -> None:
    await foreign.add_goods(1)
    await engine.delete(Goods, record_id=1)
    assert await foreign.run("SELECT * FROM goods") == []
    with pytest.raises(StateNotFoundError):
        await engine.get(Goods, record_id=1)
    await foreign.add_goods(1, "again")
    async with engine.transaction(Goods, record_id=1) as goods:
        goods.stock = 1
    assert await foreign.run("SELECT name, stock FROM goods") == [("again", 1)]


async def test_the_primary_key_of_a_row_cannot_be_changed(engine: FastState, foreign: Foreign) -> None:
    await foreign.add_goods(1)
    with pytest.raises(InvalidStateError, match="primary key"):
        async with engine.transaction(Goods, record_id=1) as goods:
            goods.id = 2
    assert await foreign.run("SELECT id FROM goods") == [(1,)]


async def test_states_of_a_table_and_others_change_together_or_not_at_all(engine: FastState, foreign: Foreign) -> None:
    await foreign.add_goods(1, stock=1)
    async with engine.transaction((Goods, 1), Tallied) as (goods, tallied):
        goods.stock -= 1
        tallied.count += 1
    with pytest.raises(ConflictError):  # the table has a rule: no negative stock
        async with engine.transaction((Goods, 1), Tallied) as (goods, tallied):
            goods.stock -= 1
            tallied.count += 1
    assert (await engine.get(Tallied)).count == 1
    assert await foreign.run("SELECT stock FROM goods") == [(0,)]


async def test_a_value_that_is_taken_is_a_conflict_and_changes_nothing(engine: FastState, foreign: Foreign) -> None:
    await foreign.add_goods(1, sku="A")
    await foreign.add_goods(2, sku="B")
    with pytest.raises(ConflictError):
        async with engine.transaction(Goods, record_id=2) as goods:
            goods.name, goods.sku = "thief", "A"
    assert await foreign.run("SELECT name, sku FROM goods WHERE id = 2") == [("bread", "B")]
    async with engine.transaction(Goods, record_id=2) as goods:
        goods.sku = "C"


async def test_a_number_that_no_column_can_hold_is_refused(engine: FastState) -> None:
    with pytest.raises(ArgumentError):
        async with engine.transaction(Front) as front:
            front.hits = 2**80
    async with engine.transaction(Front) as front:
        front.hits = 1


async def test_a_row_that_does_not_fit_the_class_fails_alone(engine: FastState, foreign: Foreign) -> None:
    await foreign.add_goods(1)
    await foreign.add_goods(2, tags='{"no": "list"}')
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        await engine.get(Goods, record_id=2)
    assert (await engine.get(Goods, record_id=1)).name == "bread"
    store = engine.backends.store_of(engine.registry.plan(Goods))
    keys = [StateKey(StateScope.RECORD, "Goods", record_id=number) for number in "123"]
    found = await store.read(keys)
    assert [snapshot is not None for snapshot in found] == [True, True, False]


async def test_a_row_whose_column_cannot_be_read_is_named_and_can_be_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/tables.db"
    async with FastState(registry=make_registry(), store=url, debug=True) as engine:
        foreign = Foreign(url)
        await foreign.add_goods(1)
        await foreign.run("UPDATE goods SET updated_at = 'yesterday' WHERE id = 1")
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="cannot be read"):
                async with engine.transaction(Goods, record_id=1):
                    pass
        await engine.delete(Goods, record_id=1)
        assert await foreign.run("SELECT id FROM goods") == []
    assert "a stored Goods cannot be read: a column" in caplog.text
    assert "trailing comma" not in caplog.text


# -- requests --------------------------------------------------------------------------------------------------------


async def test_an_id_that_no_row_can_have_is_not_found(url: str) -> None:
    bad = ["abc", "042", "+1", "1.0", "1e3", "9" * 12, "9" * 30, "-5", "%F0%9F%98%80", "%20", "1%00"]
    async with FastStateClient(make_app(store=url)) as client:
        for record_id in bad:
            page = await client.get(f"/goods/{record_id}")
            answer = await client.post(f"/faststate/events/Goods/rename?record_id={record_id}", json={"name": "x"})
            made = await client.post(f"/faststate/events/Paper/set_text?record_id={record_id}", json={"text": "x"})
            expected = 400 if record_id == "1%00" else 404
            assert (record_id, page.status, answer.status, made.status) == (record_id, expected, expected, expected)
        stream = "/faststate/sse?states=Goods:abc"
        assert (await client.get(stream)).status == 404
        refused = await client.get(stream, headers={"datastar-request": "true"})
        assert refused.status == 200, "Datastar would ask again and again"
        assert refused.json()["_faststate"]["error"]["status"] == 404


async def test_an_event_on_a_row_answers_with_what_it_changed_and_never_sends_the_key(url: str) -> None:
    async with FastStateClient(make_app(store=url)) as client:
        await Foreign(url).add_goods(1)
        assert (await client.get("/goods/1")).text == "1 bread"
        answer = await client.post("/faststate/events/Goods/rename?record_id=1", json={"name": "cake"})
        assert '{"goods":{"1":{"name":"cake"}}}' in answer.text
        async with client.stream("Goods:1") as stream:
            await stream.next()
            shown = stream.signals["goods"]["1"]
            assert shown["name"] == "cake"
            assert not {"id", "cost"} & shown.keys()


async def test_one_click_runs_once(url: str) -> None:
    async with FastStateClient(make_app(store=url)) as client:
        path, key = "/faststate/events/Front/hit", {"idempotency-key": "click"}
        answers = [await client.post(path, json={}, headers=key) for _ in range(3)]
        assert {answer.text for answer in answers} == {answers[0].text}
        assert await Foreign(url).run("SELECT hits FROM front") == [(1,)]


async def test_a_taken_value_answers_409_and_a_too_long_one_422(url: str) -> None:
    async with FastStateClient(make_app(store=url)) as client:
        await Foreign(url).add_goods(1, sku="A")
        await Foreign(url).add_goods(2, sku="B")
        taken = await client.post("/faststate/events/Goods/number?record_id=2", json={"sku": "A"})
        assert taken.status == 409
        huge = await client.post("/faststate/events/Goods/take?record_id=2", json={"amount": -(2**70)})
        assert huge.status == 422
        rows = await Foreign(url).run("SELECT sku, stock FROM goods WHERE id = 2")
        assert rows == [("B", 0)]


# -- other programs --------------------------------------------------------------------------------------------------


async def test_what_another_program_wrote_is_seen_by_the_next_turn(engine: FastState, foreign: Foreign) -> None:
    await foreign.add_goods(1, stock=5)
    async with engine.transaction(Goods, record_id=1) as goods:
        goods.stock += 1
    await foreign.run("UPDATE goods SET stock = 40")
    async with engine.transaction(Goods, record_id=1) as goods:
        goods.stock += 1
    assert await foreign.run("SELECT stock FROM goods") == [(41,)]


async def test_what_another_program_wrote_reaches_open_streams(url: str) -> None:
    async with FastStateClient(make_app(store=url, resync_interval=0.3)) as client:
        foreign = Foreign(url)
        await foreign.add_goods(1)
        async with client.stream("Goods:1", "Front") as stream:
            await stream.next()
            await foreign.run("UPDATE goods SET name = 'cake'")
            await stream.until(lambda signals: signals["goods"]["1"]["name"] == "cake")
            await client.post("/faststate/events/Goods/rename?record_id=1", json={"name": "pie"})
            await stream.until(lambda signals: signals["goods"]["1"]["name"] == "pie")
            await foreign.run("INSERT INTO front (id, hits) VALUES (1, 7)")
            await stream.until(lambda signals: signals["front"]["hits"] == 7)
            await foreign.run("DELETE FROM front")
            await stream.until(lambda signals: signals["front"]["hits"] == 0)


async def test_a_row_that_another_program_wrote_meanwhile_refuses_the_commit(
    engine: FastState, foreign: Foreign
) -> None:
    await foreign.add_goods(1, stock=5)
    for number in range(2):
        with pytest.raises(LeaseLostError):
            async with engine.transaction((Goods, 1), Tallied) as (goods, tallied):
                goods.name = "mine"
                tallied.count += 1
                await foreign.run(f"UPDATE goods SET stock = {50 + number}")
    assert await foreign.run("SELECT name, stock FROM goods") == [("bread", 51)]
    assert (await engine.get(Tallied)).count == 0
    async with engine.transaction(Goods, record_id=1) as goods:
        goods.name = "mine"
    assert await foreign.run("SELECT name, stock FROM goods") == [("mine", 51)]


async def test_a_row_that_appeared_or_vanished_meanwhile_refuses_the_commit(
    engine: FastState, foreign: Foreign
) -> None:
    with pytest.raises(LeaseLostError):
        async with engine.transaction(Front) as front:
            front.hits += 1
            await foreign.run("INSERT INTO front (id, hits) VALUES (1, 7)")
    with pytest.raises(LeaseLostError):
        async with engine.transaction(Front) as front:
            front.hits += 1
            await foreign.run("DELETE FROM front")
    with pytest.raises(LeaseLostError):
        async with engine.transaction(Front) as front:
            front.hits += 1
            await foreign.run("INSERT INTO front (id, hits) VALUES (1, 0)")
    assert await foreign.run("SELECT hits FROM front") == [(0,)]


async def test_two_programs_that_count_on_one_row_lose_nothing(engine: FastState, foreign: Foreign) -> None:
    """Increments of another program, in its own transactions, between ours: what is refused is counted as refused."""
    await foreign.add_goods(1)
    kept = 0

    async def ours() -> None:
        nonlocal kept
        for _ in range(40):
            try:
                async with engine.transaction(Goods, record_id=1) as goods:
                    await goods.bump()
                kept += 1
            except LeaseLostError:
                pass

    async def theirs() -> None:
        for _ in range(20):
            await foreign.run("UPDATE goods SET stock = stock + 1000")
            await asyncio.sleep(0.002)

    await asyncio.gather(ours(), theirs())
    ((stock,),) = await foreign.run("SELECT stock FROM goods")
    assert stock == 20_000 + kept
    assert kept > 0


async def test_concurrent_turns_on_one_row_lose_nothing(engine: FastState, foreign: Foreign) -> None:
    await foreign.add_goods(1)

    async def worker() -> None:
        for _ in range(10):
            async with engine.transaction(Goods, record_id=1) as goods:
                await goods.bump()

    await asyncio.gather(*(worker() for _ in range(4)))
    assert await foreign.run("SELECT stock FROM goods") == [(40,)]


async def test_two_servers_and_another_program_share_the_rows(serve: Serve, url: str) -> None:
    env = settings_of(url, resync_interval=0.5)
    sites = await serve_many(serve, 2, env, app="tests.apps.table_site:app")
    foreign = Foreign(url)
    await foreign.add_goods(1)
    async with new_client() as client, tabs_on(sites, 4, "Goods:1") as tabs:

        async def click(number: int) -> None:
            for _ in range(20):
                answer = await post(client, sites[number % 2].url, "Goods/bump?record_id=1")
                assert answer.status_code == 200, answer.text

        await asyncio.gather(*(click(number) for number in range(4)))
        await all_show(tabs, "goods.1.stock", 80)
        await foreign.run("UPDATE goods SET stock = 1000")
        await all_show(tabs, "goods.1.stock", 1000)
        await post(client, sites[1].url, "Goods/bump?record_id=1")
        await all_show(tabs, "goods.1.stock", 1001)
