"""``table=True`` classes are SQLModel tables in their usual form; what cannot be a row is refused when it is registered."""

import uuid
from enum import Enum
from typing import Any, Optional

import pytest
from sqlmodel import Field, Relationship, Session, SQLModel, create_engine, select

from faststate_asgi import (
    Bound,
    ConfigurationError,
    FastState,
    Private,
    ReactiveState,
    StateConfig,
    StateKey,
    StateNotFoundError,
    StateRegistry,
    StateScope,
    event,
    state_registry,
)
from faststate_asgi.key_column import KeyColumn


class Tool(ReactiveState, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    note: Bound[str] = ""
    cost: Private[int] = 3

    @event
    def rename(self, name: str) -> None:
        self.name = name


class Worker(ReactiveState, table=True):
    code: str = Field(primary_key=True, max_length=8)
    level: int = 0


class Ticket(ReactiveState, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)


class Pair(ReactiveState, table=True):
    left: int = Field(primary_key=True)
    right: int = Field(primary_key=True)


class Colour(str, Enum):
    RED = "red"


class Painted(ReactiveState, table=True):
    colour: Colour = Field(primary_key=True)


class Movable(ReactiveState, table=True):
    id: Bound[int] = Field(primary_key=True)


class Estate(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)


class Cottage(ReactiveState, table=True):
    id: int | None = Field(default=None, primary_key=True)
    estate_id: int | None = Field(default=None, foreign_key="estate.id")
    estate: Optional["Estate"] = Relationship()


class Hammer(Tool):
    """Inherits from a table."""


def record(cls: type[ReactiveState], **config: Any) -> StateRegistry:
    registry = StateRegistry()
    registry.register(cls, StateConfig(**{"scope": StateScope.RECORD, "public": True, **config}))
    return registry


def test_a_plain_instance_is_a_row_of_a_session() -> None:
    engine = create_engine("sqlite://")
    SQLModel.metadata.create_all(engine, tables=[Tool.metadata.tables["tool"]])
    with Session(engine) as session:
        tool = Tool(name="saw")
        session.add(tool)
        session.commit()
        tool.rename("axe")
        session.add(tool)
        session.commit()
        found = session.exec(select(Tool).where(Tool.name == "axe")).one()
        assert (found.id, found.cost) == (1, 3)
        assert found.signals() == {"name": "axe", "note": ""}
    engine.dispose()


def test_events_setters_and_actions_are_those_of_any_state() -> None:
    record(Tool)
    assert set(Tool.__faststate_events__) == {"rename", "set_note"}
    assert "/events/Tool/set_note" in str(Tool.setter("note"))
    assert Tool.__faststate_codec__().stored == ("id", "name", "note", "cost")
    assert Tool.__faststate_codec__().signals == ("name", "note")


def test_a_table_that_nobody_registered_is_no_state_of_the_site() -> None:
    assert list(state_registry.routes("Tool/rename")) == []
    with pytest.raises(ConfigurationError, match="GLOBAL, USER or RECORD"):
        state_registry.plan(Tool)


@pytest.mark.parametrize("scope", [StateScope.SESSION, StateScope.COMPONENT])
def test_a_row_belongs_to_no_session(scope: StateScope) -> None:
    with pytest.raises(ConfigurationError, match="GLOBAL, USER or RECORD"):
        record(Tool, scope=scope, public=False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"persistence_backend": "redis"}, "lives in a database"),
        ({"persistence_backend": "memory"}, "lives in a database"),
        ({"ttl": 5, "expire": True}, "do not expire"),
        ({"schema_version": 2}, "migration"),
        ({"upgrade": lambda data, version: data}, "migration"),
    ],
)
def test_what_contradicts_a_table_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        record(Tool, **config)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Pair, "one column, not left, right"),
        (Painted, "an int, a str or a UUID"),
        (Movable, "never changes"),
        (Cottage, "relationships"),
        (Hammer, "no table of its own"),
    ],
)
def test_what_no_key_can_stand_for_is_refused(cls: type[ReactiveState], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        record(cls)


@pytest.mark.anyio
async def test_a_table_without_a_database_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="needs a database"):
        async with FastState(registry=record(Tool)):
            pass


def test_ids_and_rows_are_one_to_one() -> None:
    number = uuid.uuid4()
    assert KeyColumn(Tool).canonical("42") == "42"
    assert KeyColumn(Tool).canonical("-42") == "-42"
    assert KeyColumn(Ticket).canonical(number.hex.upper()) == str(number)
    assert KeyColumn(Worker).canonical("a:b%/é") == "a:b%/é"
    key = StateKey(StateScope.RECORD, "Ticket", record_id=str(number))
    assert KeyColumn(Ticket).value_of(key) == number


@pytest.mark.parametrize("text", ["042", "+1", "1_0", "١", "", "1.0", "-0", str(2**63), "9" * 50])
def test_another_spelling_of_a_number_is_the_id_of_no_row(text: str) -> None:
    with pytest.raises(StateNotFoundError):
        KeyColumn(Tool).canonical(text)


def test_an_id_that_is_longer_than_its_column_is_the_id_of_no_row() -> None:
    with pytest.raises(StateNotFoundError):
        KeyColumn(Worker).canonical("x" * 9)


@pytest.mark.parametrize(("cls", "value"), [(Tool, 1), (Worker, "global"), (Ticket, uuid.UUID(int=0))])
def test_the_one_row_of_everybody_has_a_fixed_key(cls: type[ReactiveState], value: object) -> None:
    assert KeyColumn(cls).value_of(StateKey(StateScope.GLOBAL, cls.__name__)) == value
