"""What stores keep is what the state holds, whatever a class says of how pages see it."""

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic
import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    WrapSerializer,
    field_serializer,
    model_serializer,
    model_validator,
)

from faststate_asgi import FastState, Private, ReactiveState, StateConfig, StateRegistry, event
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped

DAY = dt.date(2020, 1, 2)


class Price(BaseModel):
    """Rounds, inside of a state."""

    amount: float = 1.2345

    @field_serializer("amount")
    def rounded(self, value: float) -> float:
        """Show two digits."""
        return round(value, 2)


class Tag(BaseModel):
    """Is one text in a page."""

    name: str = "new"
    weight: int = 3

    @model_serializer
    def as_text(self) -> str:
        """Show the name only."""
        return self.name


class Shown(ReactiveState):
    """Says of each of its fields how pages see it."""

    clicks: int = 0
    price: float = 1.2345
    day: dt.date = DAY
    month: Annotated[dt.date, PlainSerializer(lambda day: day.strftime("%m/%y"))] = DAY
    first: Annotated[list[int], WrapSerializer(lambda items, dump: dump(items)[:2])] = [1, 2, 3]
    several: list[Annotated[float, PlainSerializer(round)]] = [1.5]
    inner: Price = Price()
    tags: dict[str, Tag] = {"a": Tag()}
    numbers: pydantic.Json[list[int]] | None = None
    path: Path = Path("a/b")

    @field_serializer("price")
    def rounded(self, value: float) -> float:
        """Show two digits."""
        return round(value, 2)

    @field_serializer("day", "path")
    def as_text(self, value: object) -> str:
        """Show what no validator reads."""
        return f"<{value}>"

    @event
    def click(self) -> None:
        """Change nothing else."""
        self.clicks += 1


class Pair(ReactiveState):
    """Dumps itself for pages."""

    left: int = 1
    right: int = 2

    @model_validator(mode="after")
    def checked(self) -> "Pair":
        """Be between the class and its serializer."""
        return self

    @model_serializer(mode="wrap")
    def without_right(self, dump: Any) -> dict[str, Any]:
        """Leave one field out."""
        return {name: value for name, value in dump(self).items() if name != "right"}


@pytest.mark.anyio
async def test_serializers_are_for_pages_and_change_nothing_that_is_stored() -> None:
    values = {"month": dt.date(2021, 3, 4), "first": [4, 5, 6], "numbers": "[7]", "tags": {"b": Tag(weight=9)}}
    app = wrapped((Shown, GLOBAL))
    async with FastStateClient(app) as client:
        async with app.faststate.transaction(Shown) as state:
            for name, value in values.items():
                setattr(state, name, value)
            state.inner.amount = 2.3456
            state.several.append(2.5)
        answer = await client.call(Shown.click)
        assert answer.signals == {"clicks": 1}
        stored = await app.faststate.get(Shown)
        async with client.stream("Shown") as stream:
            signals = await stream.until(lambda signals: "clicks" in signals)
            seen = {name: signals[name] for name in Shown.model_fields}
    assert (stored.price, stored.day, stored.path) == (1.2345, DAY, Path("a/b"))
    assert (stored.month, stored.first, stored.numbers) == (dt.date(2021, 3, 4), [4, 5, 6], [7])
    assert (stored.several, stored.inner.amount, stored.tags) == ([1.5, 2.5], 2.3456, {"b": Tag(weight=9)})
    assert seen == {
        "clicks": 1,
        "price": 1.23,
        "day": "<2020-01-02>",
        "month": "03/21",
        "first": [4, 5],
        "several": [2, 2],
        "inner": {"amount": 2.35},
        "tags": {"b": "new"},
        "numbers": [7],
        "path": "<a/b>",
    }


@pytest.mark.anyio
async def test_a_change_is_sent_as_the_serializer_shows_it() -> None:
    class Shop(Shown):
        """Changes in place."""

        @event
        def change(self) -> None:
            """Change fields that are stored in another form than they are sent in."""
            self.first.append(8)
            self.first[0] = 7
            self.tags["a"].weight = 1
            self.tags["b"] = Tag(name="second")
            self.inner.amount = 3.4567

    async with FastStateClient(wrapped((Shop, GLOBAL))) as client, client.stream("Shop") as stream:
        answer = await client.call("Shop/change")
        seen = await stream.until(lambda signals: signals["first"][0] == 7)
    assert answer.signals == {"first": [7, 2], "tags": {"b": "second"}, "inner": {"amount": 3.46}}
    assert (seen["tags"], seen["inner"]) == ({"a": "new", "b": "second"}, {"amount": 3.46})


@pytest.mark.anyio
async def test_a_class_that_dumps_itself_loses_no_change() -> None:
    registry = StateRegistry()
    registry.register(Pair, StateConfig(scope=GLOBAL.scope))
    async with FastState(registry=registry) as engine:
        for _ in range(2):
            async with engine.transaction(Pair) as pair:
                pair.right += 1
        pair = await engine.get(Pair)
    assert (pair.right, pair.signals()) == (4, {"left": 1})


def test_values_that_pydantic_cannot_store_alone_are_stored_by_their_serializer() -> None:
    @dataclass
    class Money:
        """Unknown to pydantic."""

        cents: int

    own = Annotated[
        Any,
        PlainValidator(lambda value: value if isinstance(value, Money) else Money(value)),
        PlainSerializer(lambda money: money.cents),
    ]

    class Purse(ReactiveState):
        """Says what is stored."""

        model_config = ConfigDict(arbitrary_types_allowed=True)
        money: own = Money(5)  # type: ignore[valid-type]
        secret: Private[SecretStr]

        @field_serializer("secret")
        def dumped(self, value: SecretStr) -> str:
            """Dump the value itself."""
            return value.get_secret_value()

    codec = StateRegistry().register(Purse).__faststate_codec__()
    loaded = codec.load(codec.dump(Purse(secret=SecretStr("open"))))
    assert isinstance(loaded, Purse)
    assert (loaded.money, loaded.secret.get_secret_value()) == (Money(5), "open")


def test_fields_may_have_the_names_of_parts_of_a_schema() -> None:
    names = (
        "type",
        "serialization",
        "computed_fields",
        "serialization_exclude",
        "function",
        "ref",
        "fields",
        "default",
    )
    state = pydantic.create_model("Names", __base__=ReactiveState, **{name: (list[int], [1]) for name in names})  # type: ignore[call-overload]
    codec = StateRegistry().register(state).__faststate_codec__()
    assert json.loads(codec.dump(state())) == {name: [1] for name in names}
