"""Turns on a key: first come, first served, bounded, and never lost when somebody gives up."""

import asyncio
import random

import pytest

from faststate_asgi import OverloadedError, StateKey, StateScope
from faststate_asgi.mailboxes import Mailboxes
from faststate_asgi.turns import new_commit_id, next_version

pytestmark = pytest.mark.anyio
KEY = StateKey(StateScope.GLOBAL, "A")


async def test_turns_come_in_the_order_of_arrival() -> None:
    boxes, order = Mailboxes(100), list[int]()
    await boxes.enter(KEY, 1)

    async def visit(number: int) -> None:
        await boxes.enter(KEY, 5)
        order.append(number)
        boxes.leave(KEY)

    tasks = [asyncio.create_task(visit(number)) for number in range(10)]
    await asyncio.sleep(0)
    assert boxes.waiting == 10
    boxes.leave(KEY)
    await asyncio.gather(*tasks)
    assert order == list(range(10))
    assert len(boxes) == 0


async def test_who_gives_up_passes_the_turn_on() -> None:
    boxes = Mailboxes(100)
    await boxes.enter(KEY, 1)
    first = asyncio.create_task(boxes.enter(KEY, 5))
    second = asyncio.create_task(boxes.enter(KEY, 5))
    await asyncio.sleep(0)
    boxes.leave(KEY)
    first.cancel()
    async with asyncio.timeout(1):
        await second
    boxes.leave(KEY)
    assert len(boxes) == 0


async def test_waiting_is_bounded_in_number_and_time() -> None:
    boxes = Mailboxes(1)
    await boxes.enter(KEY, 1)
    with pytest.raises(OverloadedError):
        await boxes.enter(KEY, 0.01)
    waiting = asyncio.create_task(boxes.enter(KEY, 5))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="Too many"):
        await boxes.enter(KEY, 5)
    boxes.leave(KEY)
    await waiting
    boxes.leave(KEY)
    assert len(boxes) == 0


def test_versions_grow_and_name_their_commit() -> None:
    assert next_version("0", "abcdef0123456789") == "1-abcdef01"
    assert next_version("9-ffffffff", "abcdef0123456789") == "10-abcdef01"


def test_programs_that_seed_random_alike_make_different_commits() -> None:
    ids = set[str]()
    for _ in range(2):
        random.seed(1)
        ids.add(new_commit_id())
    assert len(ids) == 2
