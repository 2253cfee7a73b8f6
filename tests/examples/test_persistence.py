"""States that last: documents, saved profiles, and what a restart of the app finds again."""

import asyncio
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Engine
from sqlmodel import Field, Session, SQLModel, create_engine, select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from faststate_asgi import FastState, FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, StateScope, event
from faststate_asgi.testing import FastStateClient, Faults
from tests.examples.conftest import SECRET

pytestmark = pytest.mark.anyio


class DocumentEditor(ReactiveState):
    """A document that several people edit."""

    content: str = ""
    is_dirty: bool = False
    last_saved: datetime | None = None

    @event
    def update_content(self, content: str) -> None:
        """Change the text."""
        self.content, self.is_dirty = content, True

    @event
    def save_document(self) -> None:
        """Say that it is saved."""
        self.last_saved, self.is_dirty = datetime.now(timezone.utc), False


class UserPreferences(ReactiveState, table=True):
    """What a user prefers, in a table of its own that the app also reads and writes with a session."""

    user_id: str = Field(primary_key=True)
    theme: str = "light"
    choices: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    created_at: datetime = Field(default_factory=lambda: datetime.now(timezone.utc))
    updated_at: datetime | None = None

    @event
    def choose(self, theme: str) -> None:
        """Choose a theme."""
        self.theme = theme

    def save_to_db(self, session: Session) -> None:
        """Write the row as a plain SQLModel object."""
        self.updated_at = datetime.now(timezone.utc)
        session.add(self)
        session.commit()
        session.refresh(self)

    @classmethod
    def load_from_db(cls, user_id: str, session: Session) -> "UserPreferences | None":
        """Read the row as a plain SQLModel object."""
        return session.exec(select(cls).where(cls.user_id == user_id)).first()


class CounterState(ReactiveState):
    """A counter that is kept for an hour without a change, and in the database."""

    count: int = 0

    @event
    def increment(self, amount: int = 1) -> None:
        """Add to it."""
        self.count += amount

    @event("/custom-path", method="post")
    def custom(self) -> None:
        """Answer at an address of its own."""
        self.count += 100


class Draft(ReactiveState):
    """Goes away when nobody writes it for a while."""

    text: str = ""

    @event
    def write(self, text: str) -> None:
        """Change the text."""
        self.text = text


async def show(request: Request) -> JSONResponse:
    """Show a document."""
    editor = await DocumentEditor.aget(request)
    return JSONResponse(
        {"content": editor.content, "is_dirty": editor.is_dirty, "saved": editor.last_saved is not None}
    )


def site(url: str, *states: tuple[type[ReactiveState], StateConfig]) -> FastStateMiddleware:
    """Return an app as a new process would make it, with a registry of its own."""
    registry = StateRegistry()
    for cls, config in states:
        registry.register(cls, config)
    app = Starlette(routes=[Route("/edit/{doc_id}", show)])
    return FastStateMiddleware(app, registry=registry, secret_key=SECRET, store=url, debug=True)


DOCUMENTS = (
    DocumentEditor,
    StateConfig(scope=StateScope.RECORD, record_key="doc_id", ttl=3600, auto_persist=True, public=True),
)
COUNTER = (
    CounterState,
    StateConfig(scope=StateScope.SESSION, auto_persist=True, persistence_backend="database", ttl=3600),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the database."""
    return tmp_path / "app.db"


@pytest.fixture
def url(path: Path) -> str:
    """The address of the database."""
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
def database(path: Path) -> Iterator[Engine]:
    """The same database for the app's own sessions, with the table of preferences."""
    engine = create_engine(f"sqlite:///{path}")
    SQLModel.metadata.create_all(engine, tables=[SQLModel.metadata.tables["userpreferences"]])
    yield engine
    engine.dispose()


async def test_a_document_is_edited_saved_and_found_again_after_a_restart(url: str) -> None:
    """EX-015, EX-056: a record that was stored is loaded, an unknown one is new."""
    async with FastStateClient(site(url, DOCUMENTS)) as client:
        events = "/faststate/events/DocumentEditor"
        changed = await client.post(f"{events}/update_content?doc_id=1", json={"content": "hello"})
        assert changed.signals == {"content": "hello", "is_dirty": True}
        saved = await client.post(f"{events}/save_document?doc_id=1", json={})
        assert saved.signals["is_dirty"] is False
        assert datetime.fromisoformat(saved.signals["last_saved"]).tzinfo is not None
        await client.post(f"{events}/update_content?doc_id=2", json={"content": "other"})
    async with FastStateClient(site(url, DOCUMENTS)) as client:
        assert (await client.get("/edit/1")).json() == {"content": "hello", "is_dirty": False, "saved": True}
        assert (await client.get("/edit/2")).json() == {"content": "other", "is_dirty": True, "saved": False}
        assert (await client.get("/edit/3")).json() == {"content": "", "is_dirty": False, "saved": False}


async def test_what_nobody_writes_for_its_ttl_is_gone_and_younger_ones_stay(url: str, slack: float) -> None:
    """EX-025: and a later request gets a fresh one."""
    draft = (Draft, StateConfig(scope=StateScope.RECORD, public=True, ttl=0.4 * slack))
    app = site(url, draft)
    async with FastStateClient(app) as client:
        await client.post("/faststate/events/Draft/write?record_id=old", json={"text": "old"})
        await asyncio.sleep(0.45 * slack)
        await client.post("/faststate/events/Draft/write?record_id=young", json={"text": "young"})
        assert (await app.faststate.get(Draft, record_id="old")).text == ""
        assert (await app.faststate.get(Draft, record_id="young")).text == "young"
        await app.faststate.backends.purge(100)
        assert await app.faststate.backends.count() == 1


async def test_a_saved_row_is_loaded_again_with_a_new_time(database: Engine) -> None:
    """EX-027: the class is an ordinary table for sessions of the app."""
    with Session(database) as session:
        UserPreferences(user_id="anna", choices={"lines": True}).save_to_db(session)
        first = UserPreferences.load_from_db("anna", session)
        assert first is not None
        assert (first.choices, first.theme) == ({"lines": True}, "light")
        before = first.updated_at
        assert before is not None
    with Session(database) as session:
        again = UserPreferences.load_from_db("anna", session)
        assert again is not None
        again.choose("dark")
        again.save_to_db(session)
    with Session(database) as session:
        stored = UserPreferences.load_from_db("anna", session)
        assert stored is not None
        assert stored.theme == "dark"
        assert stored.updated_at is not None
        assert stored.updated_at > before
        assert UserPreferences.load_from_db("nobody", session) is None


async def test_what_a_session_saved_and_what_an_event_changed_is_one_row(database: Engine, url: str) -> None:
    """EX-027: state and sessions see each other's changes."""
    registry = StateRegistry()
    registry.register(UserPreferences, StateConfig(scope=StateScope.USER, create=True))
    with Session(database) as session:
        UserPreferences(user_id="anna", choices={"lines": True}).save_to_db(session)
    async with FastState(registry=registry, store=url, debug=True) as engine:
        async with engine.transaction(UserPreferences, user_id="anna") as preferences:
            assert preferences.choices == {"lines": True}
            preferences.choose("dark")
        async with engine.transaction(UserPreferences, user_id="bert") as preferences:
            preferences.choose("blue")
    with Session(database) as session:
        rows = session.exec(select(UserPreferences.user_id, UserPreferences.theme)).all()
        assert sorted(rows) == [("anna", "dark"), ("bert", "blue")]


async def test_a_counter_with_every_option_counts_and_is_in_the_database(path: Path, url: str) -> None:
    """EX-071: registered with scope, backend and ttl; both addresses work."""
    async with FastStateClient(site(url, COUNTER)) as client:
        answer = await client.call(CounterState.increment, 5)
        assert answer.signals == {"count": 5}
        assert (await client.post("/faststate/events/custom-path", json={})).signals == {"count": 105}
        connection = sqlite3.connect(path)
        ((data, expires_at),) = connection.execute(
            "SELECT data, expires_at FROM faststate_state WHERE key LIKE 'session:%:CounterState'"
        ).fetchall()
        connection.close()
        assert data == '{"count":105}'
        assert expires_at is None, "auto_persist deletes nothing"


WHERE: dict[StateScope, dict[str, str]] = {
    StateScope.GLOBAL: {},
    StateScope.SESSION: {"session_id": "s1"},
    StateScope.USER: {"user_id": "anna"},
    StateScope.COMPONENT: {"session_id": "s1", "component_id": "left"},
    StateScope.RECORD: {"record_id": "7"},
}


@pytest.mark.parametrize("scope", WHERE)
async def test_a_state_of_each_scope_is_found_again_under_its_whole_key(scope: StateScope, url: str) -> None:
    """Another process finds what was stored, and what differs in one part of the key is new."""
    registry = StateRegistry()
    registry.register(CounterState, StateConfig(scope=scope, auto_persist=True))
    async with FastState(registry=registry, store=url, debug=True) as engine:
        async with engine.transaction(CounterState, **WHERE[scope]) as counter:
            counter.increment(5)
        key = counter.key
    async with FastState(registry=registry, store=url, debug=True) as engine:
        found = await engine.get(CounterState, **WHERE[scope])
        assert (found.count, found.key, found.id) == (5, key, counter.id)
        for part, value in WHERE[scope].items():
            assert (await engine.get(CounterState, **{**WHERE[scope], part: value + "x"})).count == 0
        async with engine.transaction(CounterState, **WHERE[scope]) as counter:
            counter.increment()
        assert (await engine.get(CounterState, **WHERE[scope])).count == 6


@pytest.mark.parametrize("is_durable", [True, False])
async def test_what_cannot_be_read_is_refused_and_never_overwritten_by_defaults(is_durable: bool, url: str) -> None:
    """A store that is down makes events and pages answer 503; afterwards everything is as it was."""
    app = site(url if is_durable else "memory:", DOCUMENTS)
    faults = Faults(app)
    change, save = (f"/faststate/events/DocumentEditor/{name}?doc_id=1" for name in ("update_content", "save_document"))
    async with FastStateClient(app) as client:
        await client.post(change, json={"content": "precious"})
        faults.down()
        for _ in range(3):
            refused = await client.post(save, json={})
            assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert (await client.get("/edit/1")).status == 503
        health = await client.get("/faststate/health")
        assert (health.status, set(health.json()["stores"].values())) == (503, {"down"})
        faults.clear()
        assert (await client.get("/edit/1")).json() == {"content": "precious", "is_dirty": True, "saved": False}
        assert (await client.post(save, json={})).signals["is_dirty"] is False
        assert (await client.get("/edit/1")).json() == {"content": "precious", "is_dirty": False, "saved": True}
        assert (await client.get("/faststate/health")).status == 200


async def test_a_session_state_without_a_ttl_goes_with_its_session_and_a_global_one_stays() -> None:
    """A cookie session does not tell when it ends, so its states end when no cookie can be theirs any more."""
    app = site("memory:", (CounterState, StateConfig()), (Draft, StateConfig(scope=StateScope.GLOBAL, name="Notice")))
    faults = Faults(app)
    async with FastStateClient(app) as client:
        await client.call("CounterState/increment")
        await client.call("Notice/write", text="hello")
        for seconds, kept in ((app.faststate.settings.session_max_age - 60, 2), (120, 1)):
            faults.move_clock(seconds)
            await app.faststate.backends.purge(100)
            assert await app.faststate.backends.count() == kept
        assert (await app.faststate.get(Draft)).text == "hello"


async def test_times_in_a_row_are_aware_and_utc(database: Engine, url: str) -> None:
    """A row that a state made and one that a session made say the same, after a restart too."""
    registry = StateRegistry()
    registry.register(UserPreferences, StateConfig(scope=StateScope.USER, create=True))
    with Session(database) as session:
        UserPreferences(user_id="bert").save_to_db(session)
    async with FastState(registry=registry, store=url, debug=True) as engine:
        async with engine.transaction(UserPreferences, user_id="anna") as preferences:
            preferences.updated_at = datetime.now(timezone.utc)
        made = preferences.created_at, preferences.updated_at
    async with FastState(registry=registry, store=url, debug=True) as engine:
        anna = await engine.get(UserPreferences, user_id="anna")
        assert (anna.created_at, anna.updated_at) == made
        bert = await engine.get(UserPreferences, user_id="bert")
        assert bert.updated_at is not None
        for moment in (*made, bert.created_at, bert.updated_at):
            assert moment is not None
            assert moment.utcoffset() == timezone.utc.utcoffset(None)
            assert abs((datetime.now(timezone.utc) - moment).total_seconds()) < 600
