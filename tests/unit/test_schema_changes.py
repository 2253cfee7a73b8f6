"""Stored states outlive the code that wrote them."""

from __future__ import annotations

import pytest
from pydantic import ConfigDict, Field, field_validator

from faststate_asgi import (
    FastState,
    FastStateMiddleware,
    Private,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    StoreUnavailableError,
    event,
)
from faststate_asgi.keys import StateKey
from faststate_asgi.stores.base import Snapshot
from faststate_asgi.stores.memory import MemoryStore
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import SECRET, plain_app

pytestmark = pytest.mark.anyio


def plant(engine: FastState, data: bytes, shape: str) -> None:
    """Put a snapshot of another release where the state of this one is looked for."""
    store = engine.records
    assert isinstance(store, MemoryStore)
    store._states[StateKey(StateScope.GLOBAL, "Note")] = Snapshot("4-deadbeef", data, shape)


def engine_of(cls: type[ReactiveState], **config: object) -> FastState:
    registry = StateRegistry()
    registry.register(cls, StateConfig(scope=StateScope.GLOBAL, name="Note", **config))  # type: ignore[arg-type]
    return FastState(registry=registry, secret_key=SECRET, debug=True)


class NoteOfToday(ReactiveState):
    text: str = ""
    tags: list[str] = []
    colour: str = "blue"


async def test_a_field_that_is_missing_in_an_older_snapshot_takes_its_default() -> None:
    async with engine_of(NoteOfToday) as engine:
        plant(engine, b'{"text":"old"}', "1:other")
        note = await engine.get(NoteOfToday)
        assert (note.text, note.tags, note.colour) == ("old", [], "blue")


async def test_a_field_that_only_a_newer_release_knows_is_carried_along() -> None:
    async with engine_of(NoteOfToday) as engine:
        plant(engine, b'{"text":"new","tags":[],"colour":"red","pinned":true}', "1:other")
        for number in (1, 2):
            async with engine.transaction(NoteOfToday) as note:
                note.text = f"changed {number}"
        (stored,) = await engine.records.read([StateKey(StateScope.GLOBAL, "Note")])
        assert stored is not None
        assert b'"pinned":true' in stored.data
        assert b'"text":"changed 2"' in stored.data


async def test_a_class_that_refuses_unknown_fields_carries_them_along_as_well() -> None:
    class StrictNote(NoteOfToday):
        """Takes no unknown field from anybody."""

        model_config = ConfigDict(extra="forbid")

    def upgrade(data: dict[str, object], from_version: int) -> dict[str, object]:
        return {**data, "colour": f"from {from_version}"}

    async with engine_of(StrictNote) as engine:
        plant(engine, b'{"text":"new","tags":[],"colour":"red","pinned":true}', "1:other")
        assert (await engine.get(StrictNote)).text == "new"
        async with engine.transaction(StrictNote) as note:
            note.text = "changed"
        (stored,) = await engine.records.read([StateKey(StateScope.GLOBAL, "Note")])
        assert stored is not None
        assert b'"pinned":true' in stored.data
        assert (await engine.get(StrictNote)).text == "changed"
    async with engine_of(StrictNote, schema_version=2, upgrade=upgrade) as engine:
        plant(engine, b'{"text":"new","pinned":true}', "1:other")
        assert (await engine.get(StrictNote)).colour == "from 1"


async def test_a_raised_schema_version_upgrades_and_drops_what_is_unknown() -> None:
    def upgrade(data: dict[str, object], from_version: int) -> dict[str, object]:
        assert from_version == 1
        return {**data, "text": f"{data.pop('title')}!"}

    async with engine_of(NoteOfToday, schema_version=2, upgrade=upgrade) as engine:
        plant(engine, b'{"title":"hello","pinned":true}', "1:other")
        async with engine.transaction(NoteOfToday) as note:
            assert note.text == "hello!"
            note.tags.append("a")
        (stored,) = await engine.records.read([StateKey(StateScope.GLOBAL, "Note")])
        assert stored is not None
        assert b"pinned" not in stored.data
        assert b'"text":"hello!"' in stored.data
        assert stored.shape.startswith("2:")


async def test_a_snapshot_of_another_release_that_is_not_changed_is_not_written() -> None:
    async with engine_of(NoteOfToday) as engine:
        plant(engine, b'{"text":"old","tags":["x"]}', "1:other")
        async with engine.transaction(NoteOfToday) as note:
            assert note.tags == ["x"]
        assert (await engine.get(NoteOfToday)).version == "4-deadbeef"


class NoteOfTomorrow(ReactiveState):
    text: str = ""
    pin: Private[int] = 0

    @event(inline=True)
    def inline(self) -> None:
        self.text += "!"

    @event
    def thread(self) -> None:
        self.text += "!"

    @event
    async def later(self) -> None:
        self.text += "!"

    @event
    async def steps(self) -> object:
        yield None

    @event(inline=True)
    def misuse(self) -> None:
        self.pin = "SECRET-TEXT"  # type: ignore[assignment]


def failing(data: dict[str, object], from_version: int) -> dict[str, object]:
    raise KeyError(data["pin"])


@pytest.mark.parametrize("shape", ["own", "1:other"])
@pytest.mark.parametrize("config", [{}, {"schema_version": 2}, {"schema_version": 2, "upgrade": failing}])
async def test_what_cannot_be_read_is_503_everywhere_shows_no_value_and_can_be_deleted(
    shape: str, config: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(NoteOfTomorrow, **config)
    shape = engine.registry.plan(NoteOfTomorrow).shape if shape == "own" else shape
    app = FastStateMiddleware(plain_app, engine)
    async with FastStateClient(app) as client:
        plant(engine, b'{"text":"old","pin":"SECRET-TEXT"}', shape)
        for name in ("inline", "thread", "later", "steps"):
            answer = await client.call(f"Note/{name}", datastar=False)
            assert (answer.status, "cannot be read" in answer.text) == (503, True)
            assert "SECRET" not in answer.text
        with pytest.raises(StoreUnavailableError, match="Note cannot be read"):
            await engine.get(NoteOfTomorrow)
        with pytest.raises(StoreUnavailableError, match="Note cannot be read"):
            async with engine.transaction(NoteOfTomorrow):
                pass
        await engine.delete(NoteOfTomorrow)
        assert (await engine.get(NoteOfTomorrow)).text == ""
        assert (await client.call("Note/inline")).signals == {"text": "!"}
    assert "a stored Note cannot be read: " in caplog.text
    assert ("pin: int_parsing" in caplog.text) or ("KeyError in failing" in caplog.text)
    assert "SECRET" not in caplog.text


async def test_a_value_that_a_field_refuses_is_in_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(NoteOfTomorrow)
    async with FastStateClient(FastStateMiddleware(plain_app, engine)) as client:
        answer = await client.call("Note/misuse", datastar=False)
    assert (answer.status, "pin" in answer.text, "SECRET" in answer.text) == (500, True, False)
    assert "input_value" not in caplog.text


class Entry(ReactiveState):
    """Begins with what no one may enter."""

    name: str = Field("", min_length=1)
    mail: str = ""
    tags: list[str] = []
    clicks: int = 0

    @field_validator("mail")
    @classmethod
    def _has_an_at(cls, value: str) -> str:
        if "@" not in value:
            raise ValueError("no address")
        return value

    @event
    async def click(self) -> None:
        self.clicks += 1
        self.tags.append("x")

    @event
    async def enter(self, name: str, mail: str) -> None:
        self.name, self.mail = name, mail


async def test_a_default_that_its_own_field_refuses_stays_until_it_is_set() -> None:
    registry = StateRegistry()
    registry.register(Entry, StateConfig(scope=StateScope.GLOBAL))
    app = FastStateMiddleware(plain_app, registry=registry, secret_key=SECRET)
    async with FastStateClient(app) as client:
        for clicks in (1, 2):
            assert (await client.call(Entry.click)).signals["clicks"] == clicks
        for name, mail in (("", "a@b"), ("a", "b")):
            assert (await client.call(Entry.enter, name=name, mail=mail)).error is not None
        assert (await client.call(Entry.enter, name="a", mail="a@b")).signals == {"name": "a", "mail": "a@b"}
        assert (await client.call(Entry.click)).signals["clicks"] == 3
        state = await app.faststate.get(Entry)
        assert (state.name, state.mail, state.tags) == ("a", "a@b", ["x"] * 3)
