"""Worker threads give their results to the loop, are bounded, and keep no process alive."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from faststate_asgi.workers import Workers
from tests import services

pytestmark = pytest.mark.anyio
LIMIT = 3


@pytest.fixture
def workers() -> Iterator[Workers]:
    """A small pool, closed afterwards."""
    pool = Workers(LIMIT, "test-worker")
    yield pool
    pool.close()


def threads() -> list[threading.Thread]:
    """Return the pool's threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-worker-")]


def failing(error: BaseException) -> Callable[[], None]:
    """Return work that raises."""

    def work() -> None:
        raise error

    return work


async def test_a_result_comes_back_from_another_thread(workers: Workers) -> None:
    assert await workers.run(threading.get_ident) != threading.get_ident()


async def test_an_exception_comes_back_and_the_thread_goes_on(workers: Workers) -> None:
    error = ValueError("no")
    future = workers.run(failing(error))
    await asyncio.wait([future])
    assert future.exception() is error
    assert await workers.run(lambda: 5) == 5


@pytest.mark.parametrize(
    "error",
    [StopIteration(1), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError()],
    ids=lambda e: type(e).__name__,
)
async def test_what_would_end_a_loop_or_a_task_becomes_an_error(workers: Workers, error: BaseException) -> None:
    with pytest.raises(RuntimeError, match=type(error).__name__) as raised:
        await workers.run(failing(error))
    assert raised.value.__cause__ is error
    assert await workers.run(lambda: 5) == 5


async def test_there_are_never_more_threads_than_the_limit(workers: Workers) -> None:
    may_end = threading.Event()
    busy = [workers.run(may_end.wait) for _ in range(LIMIT)]
    late = workers.run(lambda: "late")
    async with asyncio.timeout(10):
        while len(threads()) < LIMIT:
            await asyncio.sleep(0.001)
    await asyncio.wait([late], timeout=0.05)
    assert (len(threads()), late.done()) == (LIMIT, False)
    may_end.set()
    assert await asyncio.gather(*busy) == [True] * LIMIT
    assert await late == "late"
    assert len(threads()) == LIMIT


async def test_work_that_waits_for_other_work_gets_a_thread_of_its_own(workers: Workers) -> None:
    meeting = threading.Barrier(LIMIT, timeout=5)
    assert sorted(await asyncio.gather(*(workers.run(meeting.wait) for _ in range(LIMIT)))) == [0, 1, 2]


async def test_a_thread_that_is_free_is_used_again(workers: Workers) -> None:
    pool = Workers(50, "test-worker")
    for number in range(50):
        assert await pool.run(lambda number=number: number) == number
    alive = len(threads())
    pool.close()
    assert alive < 10


async def test_many_results_all_arrive(workers: Workers) -> None:
    results = await asyncio.gather(*(workers.run(lambda number=number: number) for number in range(500)))
    assert results == list(range(500))


async def test_a_future_that_was_cancelled_harms_nobody(workers: Workers) -> None:
    may_end = threading.Event()
    future = workers.run(may_end.wait)
    future.cancel()
    may_end.set()
    assert await workers.run(lambda: "next") == "next"


async def test_work_that_nobody_waits_for_any_more_does_not_begin(workers: Workers) -> None:
    may_end, began = threading.Event(), list[int]()
    stuck = [workers.run(lambda: may_end.wait(20)) for _ in range(LIMIT)]
    forgotten = workers.run(lambda: began.append(1))
    await asyncio.sleep(0.05)  # all threads are awake and stuck by now
    forgotten.cancel()
    may_end.set()
    await asyncio.gather(*stuck)
    await workers.run(lambda: began.append(2))
    assert began == [2]


async def test_a_closed_pool_refuses_and_its_idle_threads_end(workers: Workers) -> None:
    await workers.run(lambda: None)
    alive = threads()
    workers.close()
    with pytest.raises(RuntimeError, match="closed"):
        workers.run(lambda: None)
    for thread in alive:
        await asyncio.to_thread(thread.join, 5)
    assert threads() == []


STUCK = """
import asyncio, threading
from faststate_asgi.workers import Workers

async def main():
    Workers(2, "stuck").run(threading.Event().wait)

asyncio.run(main())
print("left")
"""


async def test_work_that_never_returns_does_not_keep_the_process_alive() -> None:
    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", STUCK]
        return subprocess.run(command, env=services.site_environment(), capture_output=True, text=True, timeout=30)

    finished = await asyncio.to_thread(run)
    assert (finished.returncode, finished.stdout) == (0, "left\n"), finished.stderr
