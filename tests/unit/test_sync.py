"""``faststate.sync``: what its blocks raise stays in their threads, and they nest like those of the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from faststate_asgi import FastState, NestedTurnError, ReactiveState, StateConfig, StateRegistry, StateScope

pytestmark = pytest.mark.anyio


class Meter(ReactiveState):
    """One for everybody."""

    value: int = 0


class Dial(ReactiveState):
    """Many."""

    value: int = 0


@pytest.fixture
async def engine() -> AsyncIterator[FastState]:
    registry = StateRegistry()
    registry.register(Meter, StateConfig(scope=StateScope.GLOBAL))
    registry.register(Dial, StateConfig(scope=StateScope.RECORD, public=True, namespace=True))
    async with FastState(registry=registry) as engine:
        yield engine


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(1),
        KeyboardInterrupt(),
        StopIteration("value"),
        GeneratorExit(),
        asyncio.CancelledError(),
        TimeoutError(),
    ],
    ids=repr,
)
def test_what_a_block_raises_comes_out_of_it_and_ends_no_event_loop(error: BaseException) -> None:
    """The event loop is the server's."""
    caught: list[BaseException] = []

    def work(engine: FastState) -> None:
        try:
            with engine.sync.transaction(Meter) as meter:
                meter.value = 99
                raise error
        except BaseException as exc:
            caught.append(exc)

    async def main() -> int:
        registry = StateRegistry()
        registry.register(Meter, StateConfig(scope=StateScope.GLOBAL))
        async with FastState(registry=registry) as engine:
            await asyncio.wait_for(asyncio.to_thread(work, engine), 10)
            return (await engine.get(Meter)).value

    assert asyncio.run(main()) == 0
    assert caught == [error]


async def in_thread(work: Callable[[], None]) -> None:
    """Run work in a thread that has no part in anything, for ten seconds at most."""
    await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, work), 10)


async def test_a_block_in_a_block_on_the_same_state_takes_part_in_it(engine: FastState) -> None:
    def work() -> None:
        with engine.sync.transaction(Meter) as meter:
            meter.value += 1
            with engine.sync.transaction(Meter) as same:
                assert same is meter
                same.value += 1
            with pytest.raises(ZeroDivisionError), engine.sync.transaction(Meter) as same:
                same.value += 100
                raise ZeroDivisionError

    await in_thread(work)
    assert (await engine.get(Meter)).value == 2


async def test_a_block_in_a_block_on_another_state_is_refused_at_once(engine: FastState) -> None:
    """Two threads that took two states crosswise would wait for each other."""
    both = threading.Barrier(2)
    refused: list[str] = []

    def cross(first: int, second: int) -> None:
        with engine.sync.transaction(Dial, record_id=first):
            both.wait(5)
            with pytest.raises(NestedTurnError, match="one transaction") as caught:
                engine.sync.transaction(Dial, record_id=second).__enter__()
            refused.append(str(caught.value))
            with pytest.raises(NestedTurnError):
                engine.sync.delete(Dial, record_id=second)

    await asyncio.gather(in_thread(lambda: cross(1, 2)), in_thread(lambda: cross(2, 1)))
    assert len(refused) == 2


async def test_deleting_what_a_block_holds_happens_when_it_ends(engine: FastState) -> None:
    def work() -> None:
        with engine.sync.transaction(Meter) as meter:
            meter.value = 5
        with engine.sync.transaction(Meter):
            engine.sync.delete(Meter)
            assert engine.sync.get(Meter).value == 5
        assert engine.sync.get(Meter).value == 0

    await in_thread(work)


async def test_a_block_may_be_used_again_and_leaves_no_turn_behind(engine: FastState) -> None:
    def work() -> None:
        block = engine.sync.transaction(Meter)
        for _ in range(2):
            with block as meter:
                meter.value += 1
        with engine.sync.transaction(Dial, record_id=1) as dial:
            dial.value = 1

    await in_thread(work)
    assert (await engine.get(Meter)).value == 2
