"""State classes: fields, what pages may set and see, and plain use outside of requests."""

import json
from functools import cached_property
from typing import Any

import pydantic
import pytest
import sqlmodel
from pydantic import Field, ValidationError, computed_field

from faststate_asgi import (
    Bound,
    ConfigurationError,
    Html,
    InvalidStateError,
    Private,
    ReactiveState,
    ReadOnlyStateError,
    StateRegistry,
    event,
    fragment,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, RECORD, wrapped


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


def test_private_fields_are_in_no_dump_and_no_text_form() -> None:
    account = Account(pin="canary")
    for text in (str(account.model_dump()), account.model_dump_json(), repr(account), str(account)):
        assert "canary" not in text
    assert account.pin == "canary"


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


@pytest.mark.filterwarnings("ignore:Field name")  # pydantic warns before we refuse
@pytest.mark.parametrize("name", ["signal", "signals", "actions", "key", "version", "get", "aget", "delete", "id"])
def test_names_of_the_base_class_are_no_fields(name: str) -> None:
    with pytest.raises((ConfigurationError, NameError)):
        type("Bad", (ReactiveState,), {"__annotations__": {name: int}, name: 0})


def test_what_no_page_can_hold_has_no_signals() -> None:
    class Odd(ReactiveState):
        """Holds anything."""

        value: Any = None

    for value in (float("nan"), "\ud800", {"__proto__": 1}):
        with pytest.raises(InvalidStateError):
            Odd(value=value).signals()


def test_large_integers_travel_as_text() -> None:
    assert json.loads(json.dumps(Account(balance=2**53 + 1).signals()))["balance"] == "9007199254740993"


def test_signal_expressions_follow_the_namespace() -> None:
    registry = StateRegistry()

    class Plain(Account):
        """Flat."""

    class Product(Account):
        """Nested by its id."""

    registry.register(Plain)
    registry.register(Product, RECORD)
    assert Plain.signal.balance == "$balance"
    with pytest.raises(AttributeError, match="instance"):
        _ = Product.signal.balance
    with pytest.raises(AttributeError, match="no signal 'pin'"):
        _ = Plain.signal.pin


def test_only_bound_fields_have_setters() -> None:
    assert "set_name" in Account.setter("name")
    for name in ("balance", "pin", "nothing"):
        with pytest.raises(ConfigurationError, match="not Bound"):
            Account.setter(name)


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


@pytest.mark.parametrize(
    "annotation",
    [Private[str] | None, list[Private[str]], dict[str, Bound[int]], Bound[str] | None],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The 'exclude' attribute")
def test_private_and_bound_stand_around_whole_annotations(annotation: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"(Private|Bound)\[str \| None\]"):
        pydantic.create_model("Nested", __base__=ReactiveState, token=(annotation, None))


def test_a_private_field_of_a_column_is_in_no_dump() -> None:
    class Column(ReactiveState):
        """Its field is described by SQLModel's function."""

        token: Private[str] = sqlmodel.Field("canary", max_length=20)
        name: str = "n"

    class Inherited(Column):
        """Has it from its base."""

    class Row(ReactiveState, table=True):
        """Is a table."""

        number: int = sqlmodel.Field(0, primary_key=True)
        row_token: Private[str] = sqlmodel.Field("canary")

    for state in (Column(), Inherited()):
        assert (state.model_dump(), state.model_dump_json()) == ({"name": "n"}, '{"name":"n"}')
        with pytest.raises(ValidationError):
            state.token = "x" * 21
    assert Row().model_dump() == {"number": 0}


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


@pytest.mark.parametrize("name", ["größe", "名", "a٣"])
def test_names_that_a_page_cannot_use_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="rename the field"):
        type("Named", (ReactiveState,), {"__annotations__": {name: int}, name: 0, "__module__": __name__})
