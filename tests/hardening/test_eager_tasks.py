"""An app that has all its tasks begin at once (``asyncio.eager_task_factory``) changes nothing."""

import asyncio
import sys
from typing import Any

import pytest

from faststate_asgi import ReactiveState, Writable, event
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12"),
]


class Second(ReactiveState):
    """Changes together with the first one."""

    amount: int = 0


class First(ReactiveState):
    """Has an event that takes two turns and never ends."""

    count: int = 0

    @event(timeout=0.1)
    async def hang(self, second: Writable[Second]) -> None:
        await asyncio.Event().wait()

    @event
    async def add(self) -> None:
        await asyncio.sleep(0)
        self.count += 1


@pytest.fixture(autouse=True)
async def eager() -> Any:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # not there before 3.12
    yield
    loop.set_task_factory(before)


async def test_an_event_on_two_states_that_never_ends_is_answered() -> None:
    async with FastStateClient(wrapped((First, GLOBAL), (Second, GLOBAL))) as client, asyncio.timeout(10):
        answer = await client.call("First/hang")
        assert answer.error is not None
        assert answer.error["status"] == 504
        assert (await client.call("First/add")).signals == {"count": 1}


async def test_a_watched_state_that_is_read_at_once_can_be_read_again() -> None:
    app = wrapped((First, GLOBAL))
    async with FastStateClient(app) as client, client.stream("First"):
        (mirror,) = app.faststate.hub.watched
        assert mirror.is_loaded
        assert mirror.loading is None
