"""The end of a process: what has not begun by then is answered 503, and does not begin after it."""

import asyncio

import pytest

from faststate_asgi import ReactiveState, Writable, event
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio


class Other(ReactiveState):
    count: int = 0


class Till(ReactiveState):
    count: int = 0

    @event
    def add(self) -> None:
        self.count += 1

    @event
    def add_both(self, other: Writable[Other]) -> None:
        self.count += 1
        other.count += 1


@pytest.mark.parametrize("name", ["add", "add_both"])
async def test_what_waits_for_its_turn_at_the_end_is_refused_and_never_runs(name: str) -> None:
    app = wrapped((Till, GLOBAL), (Other, GLOBAL))
    async with FastStateClient(app) as client:
        engine = app.faststate
        may_call, is_refused = asyncio.Event(), asyncio.Event()

        async def call() -> None:
            await may_call.wait()
            error = (await client.call(f"Till/{name}")).error
            assert error is not None
            assert error["status"] == 503
            is_refused.set()

        calling = asyncio.create_task(call())
        async with engine.transaction(Till):
            may_call.set()
            while not engine.runtime.turns.mailboxes.waiting:
                await asyncio.sleep(0.001)
            await engine.runtime.drain(0)
            await is_refused.wait()
        await calling
        for _ in range(20):
            await asyncio.sleep(0)
        async with engine.transaction(Till) as till:
            assert till.count == 0
