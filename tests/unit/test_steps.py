"""Tasks that are told to end do end, also when a library swallows what it is told."""

import asyncio

import pytest

from faststate_asgi.steps import ended

pytestmark = pytest.mark.anyio


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await ended([task])
    assert (task.cancelled(), swallowed) == (True, 2)


async def test_tasks_that_fail_or_have_ended_are_no_obstacle() -> None:
    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("while it was cancelled")

    done = asyncio.create_task(asyncio.sleep(0))
    await done
    failing = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await ended([done, failing])
    assert failing.done()
    await ended([])
