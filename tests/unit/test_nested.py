"""A transaction inside a turn takes part in it, in the task or thread that holds it only, and is undone by itself."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from faststate_asgi import (
    FastState,
    FastStateMiddleware,
    LeaseLostError,
    NestedTurnError,
    ReactiveState,
    RequestContext,
    Writable,
    event,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
LEFT: list[BaseException | None] = []
TASKS: list[asyncio.Task[None]] = []


class Beside(ReactiveState):
    """Joins events."""

    number: int = 0


class Sum(ReactiveState):
    """Is changed in blocks inside of its own events."""

    total: int = 0
    items: list[int] = []

    @event
    async def at_once(self, context: RequestContext) -> None:
        await add_ten(context.engine)
        self.total += 1

    @event
    async def after_waiting(self, context: RequestContext) -> None:
        await asyncio.sleep(0)
        await add_ten(context.engine)
        self.total += 1

    @event
    async def with_another(self, beside: Writable[Beside], context: RequestContext) -> None:
        await add_ten(context.engine)
        self.total += 1

    @event
    async def in_steps(self, context: RequestContext) -> AsyncIterator[None]:
        await add_ten(context.engine)
        yield
        self.total += 1

    @event
    def in_thread(self, context: RequestContext) -> None:
        with context.engine.sync.transaction(Sum) as same:
            same.total += 10
        self.total += 1

    @event
    def in_thread_with_another(self, beside: Writable[Beside], context: RequestContext) -> None:
        with context.engine.sync.transaction(Sum) as same:
            same.total += 10
        self.total += 1

    @event
    def in_thread_with_copy(self, beside: Beside, context: RequestContext) -> None:
        with context.engine.sync.transaction(Sum) as same:
            same.total += 10
        self.total += 1

    @event
    def in_steps_of_threads(self, context: RequestContext) -> Iterator[None]:
        with context.engine.sync.transaction(Sum) as same:
            same.total += 10
        yield
        self.total += 1

    @event
    async def start(self, context: RequestContext) -> None:
        self.total += 1
        TASKS.append(asyncio.create_task(late(context.engine)))
        await asyncio.sleep(0.01)

    @event
    async def start_at_once(self, context: RequestContext) -> None:
        self.total += 1
        TASKS.append(asyncio.create_task(late(context.engine)))

    @event
    async def start_apart(self, context: RequestContext) -> None:
        self.total += 1
        TASKS.append(asyncio.create_task(late(context.engine), context=contextvars.Context()))
        await asyncio.sleep(0.01)

    @event
    async def fail_inside(self, context: RequestContext) -> None:
        self.total += 1
        self.items.append(1)
        with pytest.raises(ZeroDivisionError):
            async with context.engine.transaction(Sum) as same:
                same.total += 100
                same.items.append(2)
                same.delete()
                raise ZeroDivisionError
        self.items.append(3)

    @event
    def fail_inside_thread(self, context: RequestContext) -> None:
        self.total += 1
        self.items.append(1)
        with pytest.raises(SystemExit), context.engine.sync.transaction(Sum) as same:
            same.total += 100
            same.items.append(2)
            context.engine.sync.delete(Sum)
            raise SystemExit
        self.items.append(3)

    @event
    async def yield_inside(self, context: RequestContext) -> AsyncIterator[None]:
        async with context.engine.transaction(Sum) as same:
            same.total += 1
            yield
            same.total += 1


async def add_ten(engine: FastState) -> None:
    async with engine.transaction(Sum) as same:
        same.total += 10


async def late(engine: FastState) -> None:
    try:
        async with engine.transaction(Sum) as same:
            await asyncio.sleep(0.05)
            same.total += 100
    except NestedTurnError as exc:
        LEFT.append(exc)
    else:
        LEFT.append(None)


@pytest.fixture(params=["memory:", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> FastStateMiddleware:
    LEFT.clear()
    TASKS.clear()
    store = request.param if request.param == "memory:" else f"sqlite+aiosqlite:///{tmp_path}/sum.db"
    return wrapped((Sum, GLOBAL), (Beside, GLOBAL), store=store, debug=True)


@pytest.mark.parametrize(
    "name",
    [
        "at_once",
        "after_waiting",
        "with_another",
        "in_steps",
        "in_thread",
        "in_thread_with_another",
        "in_thread_with_copy",
        "in_steps_of_threads",
    ],
)
async def test_a_block_takes_part_in_the_turn_of_its_handler(app: Any, name: str) -> None:
    async with FastStateClient(app) as client:
        answers = await asyncio.gather(*(client.call(f"Sum/{name}", datastar=False) for _ in range(3)))
        assert {answer.status for answer in answers} == {200}
        assert (await app.faststate.get(Sum)).total == 33


@pytest.mark.parametrize(
    ("name", "is_refused", "total"), [("start", True, 1), ("start_at_once", False, 101), ("start_apart", False, 101)]
)
async def test_a_task_that_a_handler_started_has_no_part_in_its_turn(
    app: Any, name: str, is_refused: bool, total: int
) -> None:
    """It could end after the turn, and its change would be lost."""
    async with FastStateClient(app) as client:
        assert (await client.call(f"Sum/{name}", datastar=False)).status == 200
        await TASKS[0]
        assert (await app.faststate.get(Sum)).total == total
    assert [error is not None for error in LEFT] == [is_refused]
    assert not is_refused or "contextvars.Context()" in str(LEFT[0])


async def test_a_task_that_a_transaction_started_has_no_part_in_it(app: Any) -> None:
    async with app.faststate as engine:
        async with engine.transaction(Sum) as own:
            task = asyncio.create_task(late(engine))
            await asyncio.sleep(0.01)
            own.total += 1
        await task
        assert isinstance(LEFT[0], NestedTurnError)
        assert (await engine.get(Sum)).total == 1


async def test_a_thread_that_a_transaction_started_has_no_part_in_it(app: Any) -> None:
    def add(engine: FastState) -> None:
        with engine.sync.transaction(Sum) as same:
            same.total += 10

    async with app.faststate as engine:
        async with engine.transaction(Sum):
            with pytest.raises(NestedTurnError, match="holds the turn"):
                await asyncio.to_thread(add, engine)
        await asyncio.to_thread(add, engine)
        assert (await engine.get(Sum)).total == 10


@pytest.mark.parametrize("name", ["fail_inside", "fail_inside_thread"])
async def test_a_block_that_raises_takes_back_only_itself(app: Any, name: str) -> None:
    async with FastStateClient(app) as client:
        assert (await client.call(f"Sum/{name}", datastar=False)).status == 200
        stored = await app.faststate.get(Sum)
        assert (stored.total, stored.items) == (1, [1, 3])


async def test_a_block_in_a_block_that_raises_takes_back_only_itself(app: Any) -> None:
    async with app.faststate as engine:
        async with engine.transaction(Sum) as own:
            own.total = 1
            with pytest.raises(ZeroDivisionError):
                async with engine.transaction(Sum) as same:
                    assert same is own
                    same.total += 100
                    raise ZeroDivisionError
        assert (await engine.get(Sum)).total == 1


async def test_a_yield_inside_a_block_is_an_error(app: Any) -> None:
    """What the block would take back belongs to another turn by then."""
    async with FastStateClient(app) as client:
        answer = await client.call("Sum/yield_inside")
        assert answer.error is not None
        assert (answer.error["status"], "yield" in answer.error["detail"]) == (LeaseLostError.status, True)
        assert (await app.faststate.get(Sum)).total == 1
