"""What changed between a snapshot and the state that was loaded from it."""

import json
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import model_validator

from faststate_asgi import Private, ReactiveState, event
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped


class Table(ReactiveState):
    """Plain fields before, between and after others, two of which can hold the names of all."""

    title: str = ""
    rows: Any = None
    count: int = 0
    notes: dict[str, Any] = {}
    secret: Private[str] = ""


CODEC = Table.__faststate_codec__()
NAMES = ("title", "rows", "count", "notes", "secret")
TEXT = st.sampled_from(["", "a", ',"rows":', '","notes":{}}', "}", '"', "\\", "\\\\"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)
VALUES = st.fixed_dictionaries(
    {
        "title": TEXT,
        "rows": JSON,
        "count": st.integers(0, 2),
        "notes": st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3),
        "secret": TEXT,
    }
)


def exact(value: Any) -> str:
    """A text that tells apart what JSON tells apart; the order of keys does not count."""
    return json.dumps(value, sort_keys=True)


@given(VALUES, VALUES, st.sets(st.sampled_from(NAMES)))
def test_exactly_the_fields_with_another_value_have_changed(old: Any, new: Any, touched: set[str]) -> None:
    before = CODEC.dump(Table(**old))
    state = CODEC.load(before)
    loaded = dict(state.__dict__)
    for name in touched:
        setattr(state, name, new[name])
    expected = {name for name in touched if exact(old[name]) != exact(new[name])}
    stored, change = CODEC.changes(state, loaded, before)
    assert set(change.names if change else ()) == expected
    assert exact(json.loads(CODEC.dump(stored))) == exact(
        {**old, **{name: new[name] for name in touched}},
    )
    if change is not None:
        assert exact(json.loads(change.data)) == exact(json.loads(CODEC.dump(stored)))


def test_a_snapshot_with_its_fields_in_another_order_is_read_as_before() -> None:
    before = b'{"secret":"s","notes":{"a":1},"count":1,"rows":[1],"title":"t"}'
    state = CODEC.load(before)
    loaded = dict(state.__dict__)
    assert CODEC.changes(state, loaded, before)[1] is None
    state.title = "new"
    state.rows.append(2)
    change = CODEC.changes(state, loaded, before)[1]
    assert change is not None
    assert set(change.names) == {"title", "rows"}


class Derived(ReactiveState):
    """Validation makes two fields of a third, each in its own way."""

    items: list[int] = []
    total: int = 0
    largest: int = 0
    ordered: list[int] = []

    @model_validator(mode="after")
    def derive(self) -> Self:
        """Work like the examples of pydantic's documentation."""
        if self.total != sum(self.items):
            self.total = sum(self.items)
        self.__dict__["largest"] = max(self.items, default=0)
        self.__dict__["ordered"] = sorted(self.items)
        return self


@pytest.mark.parametrize("extra", [None, {"dropped": 1}], ids=["its own fields", "with a field that the class lost"])
def test_what_validation_derives_from_a_change_in_place_has_changed_as_well(extra: dict[str, Any] | None) -> None:
    codec = Derived.__faststate_codec__()
    before = codec.dump(Derived(), extra)
    state = codec.load(before)
    loaded = dict(state.__dict__)
    state.items.append(5)
    stored, change = codec.changes(state, loaded, before, extra)
    assert change is not None
    assert sorted(change.names) == ["items", "largest", "ordered", "total"]
    expected = {"items": [5], "total": 5, "largest": 5, "ordered": [5], **(extra or {})}
    assert json.loads(change.data) == expected
    assert {name: getattr(stored, name) for name in change.names} == {name: expected[name] for name in change.names}


@pytest.mark.anyio
async def test_a_page_sees_what_validation_derives_from_a_change_in_place() -> None:
    class Basket(Derived):
        """Changes in place."""

        @event
        async def add(self, number: int) -> None:
            self.items.append(number)

    async with FastStateClient(wrapped((Basket, GLOBAL))) as client, client.stream("Basket") as stream:
        answer = await client.call("Basket/add", {"number": 4})
        seen = await stream.until(lambda signals: signals["items"] == [4])
    expected = {"items": [4], "total": 4, "largest": 4, "ordered": [4]}
    assert answer.signals == expected
    assert {name: seen[name] for name in expected} == expected
