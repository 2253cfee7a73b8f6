"""``table=True`` states in SQLModel's usual form, and events that take database sessions, need no ignore."""

import uuid
from typing import assert_type

from sqlmodel import Field, Session, select
from sqlmodel.ext.asyncio.session import AsyncSession

from faststate_asgi import Private, ReactiveState, event


class Book(ReactiveState, table=True):
    """A number as its key."""

    id: int | None = Field(default=None, primary_key=True)
    title: str = ""
    cost: Private[int] = 0

    @event
    def rename(self, title: str, session: Session) -> None:
        """Take a session in a thread."""
        self.title = title
        assert_type(session.exec(select(Book.title)).first(), str | None)

    @event
    async def look(self, session: AsyncSession) -> None:
        """Take a session on the loop."""
        assert_type((await session.exec(select(Book))).first(), Book | None)


class Page(ReactiveState, table=True):
    """A UUID as its key."""

    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)


book = Book(title="x")
assert_type(book.id, int | None)
assert_type(Page().id, uuid.UUID)
