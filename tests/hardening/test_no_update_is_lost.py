"""Three hundred increments at once are three hundred increments, in every kind of handler and scope."""

import asyncio

import pytest

from faststate_asgi import StateConfig, StateScope, event
from faststate_asgi.testing import FastStateClient
from tests.hardening.counter_site import Tally
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
TIMES = 300


class Ledger(Tally):
    """Counts in generators too."""

    @event
    async def add_in_steps(self) -> object:
        """Count once before and once after a step, waiting between reading and writing."""
        before = self.total
        await asyncio.sleep(0)
        self.total = before + 1
        yield None
        before = self.total
        await asyncio.sleep(0)
        self.total = before + 1


@pytest.mark.parametrize("name", ["add_async", "add_thread", "add_inline"])
async def test_concurrent_increments_of_a_global_state_all_count(name: str) -> None:
    app = wrapped((Ledger, GLOBAL))
    async with FastStateClient(app) as client:
        answers = await asyncio.gather(*(client.call(f"Ledger/{name}") for _ in range(TIMES)))
        assert {answer.status for answer in answers} == {200}
        assert (await app.faststate.get(Ledger)).total == TIMES


@pytest.mark.parametrize("name", ["add_async", "add_thread", "add_inline"])
async def test_concurrent_increments_of_a_session_state_all_count(name: str) -> None:
    async with FastStateClient(wrapped(Ledger)) as client:
        await client.call(f"Ledger/{name}")
        await asyncio.gather(*(client.call(f"Ledger/{name}") for _ in range(TIMES - 2)))
        assert (await client.call(f"Ledger/{name}")).signals == {"total": TIMES}


async def test_every_answer_shows_a_different_value() -> None:
    async with FastStateClient(wrapped((Ledger, GLOBAL))) as client:
        answers = await asyncio.gather(*(client.call("Ledger/add_async") for _ in range(TIMES)))
        assert sorted(answer.signals["total"] for answer in answers) == list(range(1, TIMES + 1))


async def test_generators_count_around_their_steps() -> None:
    app = wrapped((Ledger, GLOBAL))
    async with FastStateClient(app) as client:
        await asyncio.gather(*(client.call("Ledger/add_in_steps") for _ in range(50)))
        assert (await app.faststate.get(Ledger)).total == 100


async def test_events_and_transactions_take_turns() -> None:
    app = wrapped((Ledger, GLOBAL))

    async def add() -> None:
        async with app.faststate.transaction(Ledger) as ledger:
            before = ledger.total
            await asyncio.sleep(0)
            ledger.total = before + 1

    async with FastStateClient(app) as client:
        await asyncio.gather(*(add() for _ in range(50)), *(client.call("Ledger/add_thread") for _ in range(50)))
        assert (await app.faststate.get(Ledger)).total == 100


@pytest.mark.parametrize(("threads", "times"), [(4, 25), pytest.param(8, 500, marks=pytest.mark.full)])
async def test_r29_threads_outside_of_requests_take_turns(threads: int, times: int) -> None:
    app = wrapped((Ledger, GLOBAL))

    def add_many() -> None:
        for _ in range(times):
            with app.faststate.sync.transaction(Ledger) as ledger:
                ledger.total += 1

    async with FastStateClient(app):
        await asyncio.gather(*(asyncio.to_thread(add_many) for _ in range(threads)))
        assert (await app.faststate.get(Ledger)).total == threads * times


@pytest.mark.parametrize("times", [100, pytest.param(5000, marks=pytest.mark.full)])
async def test_r31_opposite_orders_of_two_states_do_not_deadlock(times: int) -> None:
    class Left(Tally):
        """One side."""

    class Right(Tally):
        """The other side."""

    app = wrapped((Left, GLOBAL), (Right, GLOBAL))

    async def move(first: type[Tally], second: type[Tally]) -> None:
        async with app.faststate.transaction(first, second) as (source, target):
            source.total -= 1
            await asyncio.sleep(0)
            target.total += 1

    async with FastStateClient(app):

        async def both_ways() -> None:
            await asyncio.gather(*(move(Left, Right) for _ in range(100)), *(move(Right, Left) for _ in range(100)))

        for _ in range(times // 100):
            async with asyncio.timeout(30):
                await both_ways()
        assert (await app.faststate.get(Left)).total == 0
        assert (await app.faststate.get(Right)).total == 0


async def test_different_records_do_not_wait_for_each_other() -> None:
    started = asyncio.Event()
    proceed = asyncio.Event()

    class Page(Tally):
        """A record whose first event waits."""

        @event
        async def wait(self) -> None:
            started.set()
            await proceed.wait()
            self.total += 1

    app = wrapped((Page, StateConfig(scope=StateScope.RECORD, public=True, namespace=True)))
    async with FastStateClient(app) as client:
        waiting = asyncio.create_task(client.call("Page/wait", ids={"record_id": "1"}))
        await started.wait()
        other = await client.call("Page/add_async", ids={"record_id": "2"})
        assert other.signals == {"Page": {"2": {"total": 1}}}
        proceed.set()
        assert (await waiting).signals == {"Page": {"1": {"total": 1}}}
