"""Coroutines that begin at once: one that waits goes on in one task and one context, as if it had begun in them."""

import asyncio
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from faststate_asgi.eager import InContext, Starter, Suspended

pytestmark = pytest.mark.anyio
name: ContextVar[str] = ContextVar("name", default="outside")


def went_on(suspended: Suspended) -> asyncio.Future[Any]:
    """Let a coroutine go on, and return the future of its outcome."""
    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def rest() -> None:
        try:
            outcome.set_result(await suspended)
        except BaseException as exc:
            outcome.set_exception(exc)

    suspended.go_on(rest())
    return outcome


async def test_what_does_not_wait_ends_without_a_task() -> None:
    owned: list[Any] = []
    starter = Starter(owned.append)

    async def add() -> int:
        return 3

    assert starter.begin(add(), copy_context()) == 3
    assert owned == []
    await starter.aclose()


async def test_what_it_raises_at_once_is_raised() -> None:
    starter = Starter(lambda task: None)

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        starter.begin(fail(), copy_context())
    await starter.aclose()


async def test_task_and_context_are_the_same_before_and_after_waiting() -> None:
    starter = Starter(lambda task: None)
    mine = asyncio.current_task()

    async def handler() -> tuple[Any, ...]:
        token, task = name.set("inside"), asyncio.current_task()
        async with asyncio.timeout(5):
            await asyncio.sleep(0.01)
        seen = (name.get(), asyncio.current_task() is task, task is not mine)
        name.reset(token)  # refused in another context
        return seen

    suspended = starter.begin(handler(), copy_context())
    assert type(suspended) is Suspended
    assert (asyncio.current_task(), name.get()) == (mine, "outside")
    assert await went_on(suspended) == ("inside", True, True)
    await starter.aclose()


async def test_a_timeout_that_began_in_the_first_step_ends_the_handler_and_nobody_else() -> None:
    starter = Starter(lambda task: None)

    async def handler() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            return "timed out"
        return "slept"

    assert await went_on(starter.begin(handler(), copy_context())) == "timed out"
    await starter.aclose()


async def test_a_cancelled_task_cancels_the_coroutine_where_it_waits() -> None:
    starter = Starter(lambda task: None)
    steps: list[str] = []

    async def handler() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            steps.append("cancelled")
            await asyncio.sleep(0)
        return "cleaned up"

    for waits in (0, 3):
        suspended = starter.begin(handler(), copy_context())
        outcome = went_on(suspended)
        for _ in range(waits):
            await asyncio.sleep(0)
        suspended.task.cancel()
        assert await outcome == "cleaned up"
    assert steps == ["cancelled"] * 2
    await starter.aclose()


async def test_a_handler_that_cancels_its_own_task_and_does_not_wait_harms_nobody() -> None:
    starter = Starter(lambda task: None)

    async def handler() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return 1

    async def waiting() -> int:
        await asyncio.sleep(0)
        return 2

    assert starter.begin(handler(), copy_context()) == 1
    await asyncio.sleep(0)
    assert await went_on(starter.begin(waiting(), copy_context())) == 2
    await starter.aclose()


async def test_bare_yields_and_futures_that_are_done_are_waited_for() -> None:
    starter = Starter(lambda task: None)

    async def handler() -> int:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done.set_result(4)
        await asyncio.sleep(0)
        return await done

    assert await went_on(starter.begin(handler(), copy_context())) == 4
    await starter.aclose()


async def test_several_wait_for_one_future() -> None:
    starter = Starter(lambda task: None)
    shared: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def handler() -> int:
        return await shared

    outcomes = [went_on(starter.begin(handler(), copy_context())) for _ in range(3)]
    await asyncio.sleep(0.01)
    shared.set_result(7)
    assert await asyncio.gather(*outcomes) == [7, 7, 7]
    await starter.aclose()


async def test_every_step_of_a_driven_coroutine_runs_in_its_context() -> None:
    context = copy_context()
    context.run(name.set, "driven")

    async def steps() -> list[str]:
        seen = [name.get()]
        await asyncio.sleep(0)
        seen.append(name.get())
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        except TimeoutError:
            seen.append(name.get())
        return seen

    assert await InContext(context, steps()) == ["driven"] * 3
    assert name.get() == "outside"
