"""What an event costs a state with many rows, counted; and that what is spared shares no object and misses no change."""

from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel, Field, computed_field

from faststate_asgi import ReactiveState, event
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
ROWS = 300


def rows() -> list[dict[str, Any]]:
    return [{"number": number, "name": f"row {number}", "note": None} for number in range(ROWS)]


class Ledger(ReactiveState):
    """Many rows between other fields."""

    count: int = 0
    tags: list[str] = ["a"]
    rows: list[dict[str, Any]] = Field(default_factory=rows)
    notes: dict[str, Any] = {}

    @event(inline=True)
    def step(self) -> None:
        self.count += 1

    @event(inline=True)
    def change(self, at: int = 7) -> None:
        self.rows[at]["number"] += 1

    @event(inline=True)
    def append(self) -> None:
        self.rows.append({"number": len(self.rows), "name": "new", "note": None})

    @event(inline=True)
    def swap(self) -> None:
        self.rows[0], self.rows[1] = self.rows[1], self.rows[0]

    @event(inline=True)
    def turn_keys(self) -> None:
        self.rows[0] = dict(reversed(self.rows[0].items()))

    @event(inline=True)
    def spoil(self) -> None:
        self.rows[3]["number"] = float("nan")

    @event(inline=True)
    def hand_out(self) -> None:
        self.rows[0]["number"] = -1
        handed_out.append(self.rows)


handed_out: list[Any] = []


class Line(BaseModel):
    """One row with something that is not sent, and something that is not stored."""

    number: int = 0
    secret: str = Field(default="hidden", exclude=True)

    @computed_field
    def double(self) -> int:
        return 2 * self.number


class Lines(ReactiveState):
    """Rows whose public form is not the stored one."""

    lines: list[Line] = Field(default_factory=lambda: [Line() for _ in range(ROWS)])

    @event(inline=True)
    def change(self) -> None:
        self.lines[5].number += 1


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the rows were dumped and loaded."""
    codec, seen = Ledger.__faststate_codec__(), Counter[str]()
    dump, validate, public = codec._dump, codec._validate, codec._public_dump

    def counted_dump(state: Any, **options: Any) -> bytes:
        data: bytes = dump(state, **options)
        seen["dumps"] += b'"rows":[{' in data
        return data

    def counted_load(data: bytes, **options: Any) -> Any:
        seen["loads"] += b'"rows":[{' in data
        return validate(data, **options)

    def counted_public_dump(state: Any, *, include: set[str], **options: Any) -> Any:
        seen["dumps"] += "rows" in include
        return public(state, include=include, **options)

    monkeypatch.setattr(codec, "_dump", counted_dump)
    monkeypatch.setattr(codec, "_validate", counted_load)
    monkeypatch.setattr(codec, "_public_dump", counted_public_dump)
    return seen


async def test_a_change_beside_the_rows_dumps_and_loads_them_once(counts: Counter[str]) -> None:
    async with FastStateClient(wrapped((Ledger, GLOBAL))) as client:
        await client.call(Ledger.step)
        counts.clear()
        assert (await client.call(Ledger.step)).signals == {"count": 2}
        assert counts == {"dumps": 1, "loads": 1}


@pytest.mark.parametrize("name", ["change", "append", "swap"])
async def test_a_change_inside_the_rows_dumps_them_twice_and_loads_them_once(name: str, counts: Counter[str]) -> None:
    """Once for what the handler left, once for what validation made of it, which is also what the next event gets."""
    async with FastStateClient(wrapped((Ledger, GLOBAL))) as client:
        await client.call(f"Ledger/{name}")
        await client.call(f"Ledger/{name}")
        counts.clear()
        answer = await client.call(f"Ledger/{name}")
        assert len(answer.signals["rows"]) >= ROWS
        assert counts == {"dumps": 2, "loads": 1}


async def test_streams_get_a_change_inside_the_rows_without_another_dump(counts: Counter[str]) -> None:
    async with FastStateClient(wrapped((Ledger, GLOBAL))) as client, client.stream("Ledger") as stream:
        await client.call(Ledger.change)
        await stream.until(lambda page: page["rows"][7]["number"] == 8)
        counts.clear()
        await client.call(Ledger.change)
        await stream.until(lambda page: page["rows"][7]["number"] == 9)
        assert counts == {"dumps": 2, "loads": 1}


async def test_every_change_inside_the_rows_is_seen() -> None:
    async with FastStateClient(wrapped((Ledger, GLOBAL))) as client:
        expected: list[Any] = [{**row, "note": ""} for row in rows()]
        for at in (7, 7, 0, ROWS - 1, 7):
            expected[at]["number"] += 1
            assert (await client.call(Ledger.change, at)).signals == {"rows": expected}
        expected[0], expected[1] = expected[1], expected[0]
        assert (await client.call(Ledger.swap)).signals == {"rows": expected}


async def test_another_order_of_keys_is_no_change() -> None:
    async with FastStateClient(wrapped((Ledger, GLOBAL))) as client:
        await client.call(Ledger.step)
        assert (await client.call(Ledger.turn_keys)).status == 204


async def test_what_a_handler_kept_changes_nothing_later() -> None:
    async with FastStateClient(wrapped((Ledger, GLOBAL))) as client:
        await client.call(Ledger.hand_out)
        for _ in range(2):
            handed_out[-1].clear()
            answer = await client.call(Ledger.change, 1)
            assert len(answer.signals["rows"]) == ROWS
            await client.call(Ledger.hand_out)


async def test_a_refused_change_inside_the_rows_leaves_no_trace() -> None:
    async with FastStateClient(wrapped((Ledger, GLOBAL))) as client:
        await client.call(Ledger.change)
        assert (await client.call(Ledger.spoil)).error is not None
        assert (await client.call(Ledger.change)).signals["rows"][3]["number"] == 3


async def test_rows_whose_public_form_is_another_are_sent_in_it() -> None:
    async with FastStateClient(wrapped((Lines, GLOBAL))) as client:
        for number in (1, 2):
            answer = await client.call(Lines.change)
            assert answer.signals["lines"][5] == {"number": number, "double": 2 * number}
