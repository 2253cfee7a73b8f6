"""A site whose states are tables, and a program that knows nothing of it but writes the same tables."""

import asyncio
import sqlite3
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import asyncpg
from sqlalchemy import JSON, CheckConstraint, Column, DateTime, make_url
from sqlmodel import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import (
    Bound,
    FastStateMiddleware,
    Private,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    Writable,
    event,
)

SECRET = "only-for-tests-of-tables-" + "x" * 32


class Tallied(ReactiveState):
    """A state that is no table, in the same database."""

    count: int = 0


class Goods(ReactiveState, table=True):
    """Records that other programs make."""

    __table_args__ = (CheckConstraint("stock >= 0"),)

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=40)
    sku: str | None = Field(default=None, unique=True)
    price: Decimal = Field(default=Decimal("1.50"), max_digits=8, decimal_places=2)
    stock: int = 0
    tags: list[str] = Field(default_factory=list, sa_type=JSON)
    cost: Private[int] = 7
    updated_at: datetime | None = None
    seen_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
    noted_at: datetime | None = Field(default=None, sa_column=Column(DateTime()))

    @event
    def rename(self, name: str) -> None:
        """Change one column."""
        self.name = name

    @event
    def tag(self, tag: str) -> None:
        """Change a column in place, and say when."""
        self.tags.append(tag)
        self.updated_at = datetime.now(timezone.utc)

    @event
    def number(self, sku: str) -> None:
        """Change a column that is unique."""
        self.sku = sku

    @event
    async def take(self, tallied: Writable[Tallied], amount: int = 1) -> None:
        """Change a row and a state that is no table together."""
        before = self.stock
        tallied.count += amount
        await asyncio.sleep(0)
        self.stock = before - amount

    @event
    async def bump(self) -> None:
        """Add one; without turns updates would be lost."""
        before = self.stock
        await asyncio.sleep(0)
        self.stock = before + 1


class Wish(ReactiveState, table=True):
    """One row per user, made when it is first written."""

    user_id: str = Field(primary_key=True)
    text: Bound[str] = ""


class Front(ReactiveState, table=True):
    """One row for everybody."""

    id: int | None = Field(default=None, primary_key=True)
    hits: int = 0

    @event
    async def hit(self) -> None:
        """Add one."""
        before = self.hits
        await asyncio.sleep(0)
        self.hits = before + 1


class Paper(ReactiveState, table=True):
    """Records that are made when they are first written, with ids that nobody can guess."""

    id: uuid.UUID = Field(primary_key=True)
    text: Bound[str] = ""


def make_registry() -> StateRegistry:
    """Return the states of the site; scripts on the same database use them too."""
    registry = StateRegistry()
    registry.register(Tallied, StateConfig(scope=StateScope.GLOBAL, namespace="tallied"))
    registry.register(Goods, StateConfig(scope=StateScope.RECORD, public=True, namespace="goods"))
    registry.register(Wish, StateConfig(scope=StateScope.USER, create=True, namespace="wish"))
    registry.register(Front, StateConfig(scope=StateScope.GLOBAL, create=True, namespace="front"))
    registry.register(Paper, StateConfig(scope=StateScope.RECORD, create=True, public=True, namespace="paper"))
    return registry


async def home(request: Request) -> PlainTextResponse:
    """Show a record's name."""
    goods = await Goods.aget(request)
    return PlainTextResponse(f"{goods.id} {goods.name}")


def make_app(**settings: Any) -> FastStateMiddleware:
    """Return the site."""
    site = Starlette(routes=[Route("/goods/{record_id}", home)])
    return FastStateMiddleware(site, registry=make_registry(), secret_key=SECRET, debug=True, **settings)


app = make_app(max_streams_per_session=1000)


class Foreign:
    """Another program on the same database, with the plain driver.

    Args:
        url: of the database, as the site has it.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"

    async def run(self, sql: str) -> Sequence[Any]:
        """Run one statement in a transaction of its own and return what it returns."""
        if self.is_sqlite:
            return await asyncio.to_thread(self._run_here, sql)
        connection = await asyncpg.connect(self._url.set(drivername="postgresql").render_as_string())
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    def _run_here(self, sql: str) -> Sequence[Any]:
        connection = sqlite3.connect(self._url.database or "", timeout=10)
        try:
            with connection:
                return connection.execute(sql).fetchall()
        finally:
            connection.close()

    async def add_goods(self, number: int = 1, name: str = "bread", **columns: object) -> None:
        """Insert one row."""
        values = {"id": number, "name": name, "price": 1.5, "stock": 0, "tags": "[]", "cost": 7, **columns}
        texts = ", ".join(str(v) if isinstance(v, int | float) else f"'{v}'" for v in values.values())
        await self.run(f"INSERT INTO goods ({', '.join(values)}) VALUES ({texts})")
