"""State classes: fields, what pages may set and see, and plain use outside of requests."""

import json
from functools import cached_property
from typing import Any

import pydantic
import pytest
from pydantic import Field, ValidationError, computed_field

from faststate_asgi import (
    Bound,
    ConfigurationError,
    Html,
    InvalidStateError,
    Private,
    ReactiveState,
    ReadOnlyStateError,
    event,
    fragment,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped


class Account(ReactiveState):
    """A field of each kind."""

    name: Bound[str] = "x"
    balance: int = 0
    pin: Private[str] = "1234"
    hidden: str = Field(default="h", exclude=True)
    tags: list[str] = []
    limit: int | None = None

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own advice
    @property
    def double(self) -> int:
        """Twice the balance."""
        return self.balance * 2

    @event
    def pay(self, amount: int = 1) -> int:
        """Change the balance and return it."""
        self.balance += amount
        return self.balance


def test_signals_are_the_public_fields() -> None:
    assert Account().signals() == {"name": "x", "balance": 0, "tags": [], "limit": "", "double": 0}


def test_fields_are_validated_when_made_and_when_assigned() -> None:
    with pytest.raises(ValidationError):
        Account(balance="many")
    account = Account()
    with pytest.raises(ValidationError):
        account.balance = "many"  # type: ignore[assignment]  # that is the point
    assert account.balance == 0


def test_events_are_plain_methods_of_an_instance() -> None:
    account = Account()
    assert account.pay(5) == 5
    account.set_name("new")
    assert account.name == "new"


def test_mutable_defaults_are_not_shared() -> None:
    first, second = Account(), Account()
    first.tags.append("a")
    assert second.tags == []


def test_a_plain_object_has_an_identity_of_its_own() -> None:
    first, second = Account(), Account()
    assert first.id == first.id != second.id
    assert (first.key, first.version, first.is_read_only) == (None, "0", False)
    with pytest.raises(ReadOnlyStateError, match="transaction"):
        first.delete()


def test_what_no_page_can_hold_has_no_signals() -> None:
    class Odd(ReactiveState):
        """Holds anything."""

        value: Any = None

    for value in (float("nan"), "\ud800", {"__proto__": 1}):
        with pytest.raises(InvalidStateError):
            Odd(value=value).signals()


def test_large_integers_travel_as_text() -> None:
    assert json.loads(json.dumps(Account(balance=2**53 + 1).signals()))["balance"] == "9007199254740993"


def test_classes_can_be_made_at_run_time() -> None:
    made = pydantic.create_model("Made", __base__=Account, extra=(int, 5))
    assert made().signals()["extra"] == 5
    assert made().pay(2) == 2


def test_events_are_inherited_and_overrides_are_decorated_again() -> None:
    class Child(Account):
        """Replaces one."""

        def pay(self, amount: int = 1) -> int:  # type: ignore[override]  # that is the point
            """Not an event."""
            return -1

    assert set(Child.__faststate_events__) == {"set_name"}


@pytest.mark.parametrize(
    "options",
    [
        {"method": "trace"},
        {"mode": "nonsense"},
        {"timeout": 0},
        {"timeout": -1},
        {"path": "../x"},
        {"path": "a b"},
        {"path": ""},
        {"selector": "#a\nb"},
        {"on_disconnect": "explode"},
        {"permissions": [""]},
    ],
)
def test_event_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        event(**options)(lambda self: None)


def test_an_underscored_method_is_no_event() -> None:
    with pytest.raises(ConfigurationError, match="underscore"):

        class Hidden(ReactiveState):
            @event
            def _secret(self) -> None: ...


def test_the_name_in_the_class_counts_not_that_of_the_function() -> None:
    def _add(self: Any, amount: int = 1) -> None:
        self.count += amount

    made: Any = type("Made", (ReactiveState,), {"__annotations__": {"count": int}, "count": 0, "add": event(_add)})
    state = made()
    state.add(3)
    assert state.count == 3
    assert made.add(2).startswith("@post('/faststate/events/Made/add', ")


def test_a_fragment_names_fields_that_exist_and_is_synchronous() -> None:
    with pytest.raises(ConfigurationError, match="no fields"):

        class Wrong(ReactiveState):
            """Names nothing that it has."""

            @fragment(on="missing")
            def shown(self) -> str:
                return ""

    with pytest.raises(ConfigurationError, match="plain def"):

        @fragment(on="a")
        async def later(self: Any) -> str:
            return ""

    with pytest.raises(ConfigurationError, match="names of the fields"):
        fragment(on=())


def test_properties_that_keep_their_value_follow_the_fields() -> None:
    class Cached(ReactiveState):
        """Computes once."""

        count: int = 0

        @computed_field  # type: ignore[prop-decorator]  # pydantic's own advice
        @cached_property
        def double(self) -> int:
            """Twice the number."""
            return self.count * 2

    state = Cached()
    assert state.double == 0
    state.count = 4
    assert state.signals() == {"count": 4, "double": 8}


@pytest.mark.anyio
async def test_pages_see_new_values_of_properties_that_keep_theirs() -> None:
    class CachedCounter(ReactiveState):
        """Its event meets the old value."""

        count: int = 0

        @computed_field  # type: ignore[prop-decorator]  # pydantic's own advice
        @cached_property
        def double(self) -> int:
            """Twice the number."""
            return self.count * 2

        @cached_property
        def text(self) -> str:
            """The number in words, more or less."""
            return f"<b id='words'>{self.count}</b>"

        @fragment(on="count")
        def words(self) -> Html:
            """Show a property."""
            return Html(self.text)

        @event
        def add(self) -> str:
            """Use both, then change what they are made of."""
            before = f"{self.double} {self.text}"
            self.count += 1
            return before

    async with FastStateClient(wrapped((CachedCounter, GLOBAL))) as client:
        await client.call("CachedCounter/add")
        answer = await client.call("CachedCounter/add")
        async with client.stream("CachedCounter") as stream:
            await stream.next()
            assert stream.signals["double"] == 4
    assert answer.signals == {"count": 2, "double": 4}
    assert "<b id='words'>2</b>" in answer.text
