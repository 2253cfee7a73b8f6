"""A site whose events write rows of their own beside the state."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession as PlainAsyncSession
from sqlalchemy.orm import Session as PlainSession
from sqlmodel import Field, Session, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.applications import Starlette

from faststate_asgi import (
    FastStateMiddleware,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
)
from tests.apps.table_site import SECRET


class Receipt(SQLModel, table=True):
    """A row of the site's own."""

    id: int | None = Field(default=None, primary_key=True)
    text: str = Field(unique=True)


class Gate:
    """Lets a test wait for handlers and handlers wait for a test."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self.opened = threading.Event()

    def clear(self) -> None:
        """Close it."""
        self.__init__()  # type: ignore[misc]

    def pass_through(self) -> None:
        """Wait in a thread."""
        self.reached.release()
        assert self.opened.wait(20)

    async def pass_through_async(self) -> None:
        """Wait on the loop."""
        await asyncio.to_thread(self.pass_through)

    async def until_reached(self) -> None:
        """Return when another handler waits."""
        assert await asyncio.to_thread(self.reached.acquire, timeout=20)


gate = Gate()


class Till(ReactiveState):
    """Counts the receipts that its events write."""

    count: int = 0

    @event
    def add(self, text: str, session: Session) -> None:
        """Write a row in a thread."""
        session.add(Receipt(text=text))
        self.count += 1

    @event
    async def add_async(self, text: str, session: AsyncSession) -> None:
        """Write a row on the loop."""
        session.add(Receipt(text=text))
        self.count += 1

    @event
    def add_plain(self, text: str, db: PlainSession) -> None:
        """Use SQLAlchemy's own class."""
        db.execute(PlainText.insert, {"text": text})
        self.count += 1

    @event
    async def add_plain_async(self, text: str, db: PlainAsyncSession) -> None:
        """Use SQLAlchemy's own class."""
        await db.execute(PlainText.insert, {"text": text})
        self.count += 1

    @event
    def add_by_habit(self, text: str, session: Session) -> None:
        """Do what one does elsewhere: commit, refresh, close."""
        with session:
            receipt = Receipt(text=text)
            session.add(receipt)
            session.commit()
            session.refresh(receipt)
            assert receipt.id is not None
        self.count += 1
        if text.startswith("bad"):
            raise RuntimeError("after the commit")

    @event
    async def add_by_habit_async(self, text: str, session: AsyncSession) -> None:
        """Do what one does elsewhere: begin, commit, refresh."""
        async with session.begin():
            session.add(Receipt(text=text))
        receipt = (await session.exec(select(Receipt).where(Receipt.text == text))).one()
        await session.refresh(receipt)
        self.count += 1
        if text.startswith("bad"):
            raise RuntimeError("after the commit")

    @event
    def try_twice(self, text: str, session: Session) -> None:
        """Roll back and go on."""
        session.add(Receipt(text=f"{text} (first)"))
        session.flush()
        session.rollback()
        session.add(Receipt(text=f"{text} (second)"))
        with session.begin_nested() as savepoint:
            session.add(Receipt(text=f"{text} (third)"))
            session.flush()
            savepoint.rollback()
        self.count += 1

    @event
    def look(self, session: Session) -> None:
        """Only read."""
        self.count = len(session.exec(select(Receipt)).all())

    @event
    def only_rows(self, text: str, session: Session) -> None:
        """Leave the state as it is."""
        session.add(Receipt(text=text))

    @event
    def untouched(self, session: Session) -> None:
        """Ask for a session and need none."""
        self.count += 1

    @event
    def add_and_wait(self, text: str, session: Session) -> None:
        """Write first, then take long."""
        session.add(Receipt(text=text))
        session.flush()
        gate.pass_through()
        self.count += 1

    @event
    async def add_and_wait_async(self, text: str, session: AsyncSession) -> None:
        """Write first, then take long."""
        session.add(Receipt(text=text))
        await session.flush()
        await gate.pass_through_async()
        self.count += 1

    @event
    def cross(self, first: str, second: str, session: Session) -> None:
        """Change two rows, the second one later."""
        for name in (first, second):
            receipt = session.exec(select(Receipt).where(Receipt.text.startswith(name))).one()  # type: ignore[attr-defined]
            receipt.text += "!"
            session.add(receipt)
            session.flush()
            if name == first:
                gate.pass_through()
        self.count += 1

    @event
    def wait_and_add(self, text: str, session: Session) -> None:
        """Take long before anything is asked of the database."""
        gate.pass_through()
        session.add(Receipt(text=text))
        self.count += 1

    @event
    def read_wait_and_add(self, text: str, session: Session) -> None:
        """Read, let others write, then write."""
        session.exec(select(Receipt)).all()
        gate.pass_through()
        session.add(Receipt(text=text))
        self.count += 1

    @event(timeout=0.5)
    def too_long(self, text: str, session: Session) -> None:
        """Go on after the time is over."""
        session.add(Receipt(text=text))
        session.flush()
        gate.pass_through()
        try:
            session.add(Receipt(text=f"{text}, late"))
            session.flush()
        finally:
            gate.reached.release()

    @event(timeout=0.5)
    async def too_long_async(self, text: str, session: AsyncSession) -> None:
        """Go on after the time is over."""
        session.add(Receipt(text=text))
        await session.flush()
        await asyncio.sleep(20)

    @event
    def steps(self, text: str, session: Session) -> Iterator[None]:
        """Commit at each yield."""
        for number in range(3):
            session.add(Receipt(text=f"{text} {number}"))
            self.count += 1
            yield
        session.add(Receipt(text=f"{text} lost"))
        raise RuntimeError("in the last step")

    @event
    async def steps_async(self, text: str, session: AsyncSession) -> AsyncIterator[None]:
        """Commit at each yield; what was added before is still there."""
        receipt = Receipt(text=f"{text} 0")
        session.add(receipt)
        self.count += 1
        yield
        receipt.text = f"{text} changed"
        session.add(Receipt(text=f"{text} 1"))
        self.count += 1
        yield


class PlainText:
    """Statements without a model."""

    insert = text("INSERT INTO receipt (text) VALUES (:text)")


class Drawer(Till):
    """The same for each number, so that several hold turns at once."""


class Elsewhere(Till):
    """The same, but its state lives in memory."""


def make_registry(*, with_memory: bool = False) -> StateRegistry:
    """Return the states of the site."""
    registry = StateRegistry()
    registry.register(Till, StateConfig(scope=StateScope.GLOBAL, namespace=True))
    registry.register(Drawer, StateConfig(scope=StateScope.RECORD, public=True, namespace=True))
    if with_memory:
        config = StateConfig(scope=StateScope.GLOBAL, namespace=True, persistence_backend="memory")
        registry.register(Elsewhere, config)
    return registry


def make_app(*, with_memory: bool = False, **settings: Any) -> FastStateMiddleware:
    """Return the site."""
    registry = make_registry(with_memory=with_memory)
    return FastStateMiddleware(Starlette(), registry=registry, secret_key=SECRET, debug=True, **settings)


def now() -> float:
    """Return the time that tests measure with."""
    return time.monotonic()


app = make_app()
