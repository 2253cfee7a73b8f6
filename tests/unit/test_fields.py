"""Fields of state classes: which names they may have, and what ``Bound`` and ``Private`` do."""

from typing import Any

import pydantic
import pytest
import sqlmodel
from pydantic import ValidationError

from faststate_asgi import Bound, ConfigurationError, Private, ReactiveState


class Account(ReactiveState):
    """A field of each kind."""

    name: Bound[str] = "x"
    balance: int = 0
    pin: Private[str] = "1234"


def test_private_fields_are_in_no_dump_and_no_text_form() -> None:
    account = Account(pin="canary")
    for text in (str(account.model_dump()), account.model_dump_json(), repr(account), str(account)):
        assert "canary" not in text
    assert account.pin == "canary"


@pytest.mark.filterwarnings("ignore:Field name")  # pydantic warns before we refuse
@pytest.mark.parametrize("name", ["signal", "signals", "actions", "key", "version", "get", "aget", "delete", "id"])
def test_names_of_the_base_class_are_no_fields(name: str) -> None:
    with pytest.raises((ConfigurationError, NameError)):
        type("Bad", (ReactiveState,), {"__annotations__": {name: int}, name: 0})


@pytest.mark.parametrize("name", ["größe", "名", "a٣"])
def test_names_that_a_page_cannot_use_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="rename the field"):
        type("Named", (ReactiveState,), {"__annotations__": {name: int}, name: 0, "__module__": __name__})


def test_only_bound_fields_have_setters() -> None:
    assert "set_name" in Account.setter("name")
    for name in ("balance", "pin", "nothing"):
        with pytest.raises(ConfigurationError, match="not Bound"):
            Account.setter(name)


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
