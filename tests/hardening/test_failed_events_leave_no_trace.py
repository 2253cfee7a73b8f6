"""An event that fails changes no state, no store and no page, and its text reaches no browser."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from faststate_asgi import Html, ReactiveState, Writable, event, fragment
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
CANARY = "canary-e2f1"


class Other(ReactiveState):
    """Changes together with the first one."""

    other: int = 0


class Held(ReactiveState):
    """Waits before it changes anything."""

    begun: ClassVar[asyncio.Event] = asyncio.Event()
    go_on: ClassVar[asyncio.Event] = asyncio.Event()
    count: int = 0

    @event
    async def add(self) -> None:
        self.begun.set()
        await self.go_on.wait()
        self.count += 1


class Fragile(ReactiveState):
    """One event for each way to fail."""

    count: int = Field(default=0, ge=0)
    text: str = ""
    ratio: float = 0.0
    numbers: list[int] = []
    nested: dict[str, dict[str, float]] = {}
    anything: dict[str, Any] = {}

    @fragment(on=("text",))
    def shown(self) -> Any:
        """Fail for one text, work for all others."""
        if self.text == CANARY:
            raise ValueError(CANARY)
        return Html(f'<p id="shown">{self.text}</p>')

    @event
    def succeed(self) -> None:
        self.count += 1

    @event
    def raise_in_thread(self) -> None:
        self.count = 99
        raise RuntimeError(CANARY)

    @event(inline=True)
    def raise_inline(self) -> None:
        self.count = 99
        raise RuntimeError(CANARY)

    @event
    async def raise_async(self) -> None:
        self.count = 99
        await asyncio.sleep(0)
        raise RuntimeError(CANARY)

    @event
    async def raise_base_error(self) -> None:
        self.count = 99
        raise asyncio.CancelledError(CANARY)

    @event(inline=True)
    def raise_base_error_inline(self) -> None:
        self.count = 99
        raise GeneratorExit(CANARY)

    @event
    async def raise_base_error_late(self) -> None:
        self.count = 99
        await asyncio.sleep(0)
        raise GeneratorExit(CANARY)

    @event
    def raise_base_error_in_thread(self) -> None:
        self.count = 99
        raise SystemExit(CANARY)

    @event
    def raise_base_error_with_other(self, other: Writable[Other]) -> None:
        self.count = other.other = 99
        raise SystemExit(CANARY)

    @event
    async def raise_base_error_exit(self) -> None:
        self.count = 99
        raise SystemExit(CANARY)

    @event
    async def raise_base_error_exit_late(self) -> None:
        self.count = 99
        await asyncio.sleep(0)
        raise SystemExit(CANARY)

    @event(inline=True)
    def raise_base_error_interrupt_inline(self) -> None:
        self.count = 99
        raise KeyboardInterrupt(CANARY)

    @event
    async def raise_base_error_exit_with_other(self, other: Writable[Other]) -> None:
        self.count = other.other = 99
        raise SystemExit(CANARY)

    @event
    async def raise_base_error_exit_at_once(self) -> AsyncIterator[None]:
        self.count = 99
        raise SystemExit(CANARY)
        yield None

    @event
    async def wait_for_what_was_cancelled(self) -> None:
        self.count = 99
        waiting = asyncio.ensure_future(asyncio.sleep(30))
        waiting.cancel(CANARY)
        await waiting

    @event
    async def raise_base_error_at_once(self) -> AsyncIterator[None]:
        self.count = 99
        raise asyncio.CancelledError(CANARY)
        yield None

    @event
    def raise_base_error_in_thread_at_once(self) -> Iterator[None]:
        self.count = 99
        raise SystemExit(CANARY)
        yield None

    @event
    async def raise_at_once(self) -> AsyncIterator[None]:
        self.count = 99
        raise RuntimeError(CANARY)
        yield None

    @event
    def raise_with_other(self, other: Writable[Other]) -> None:
        self.count = other.other = 99
        raise RuntimeError(CANARY)

    @event(timeout=0.05)
    async def time_out(self) -> None:
        self.count = 99
        await asyncio.sleep(30)

    @event(timeout=0.05)
    async def time_out_stubbornly(self) -> None:
        self.count = 99
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.text = CANARY

    @event(timeout=0.05)
    def time_out_in_thread(self) -> None:
        self.count = 99
        time.sleep(0.2)  # what a blocking driver does

    @event
    def assign_refused(self) -> None:
        self.count = -1

    @event
    def assign_other_type(self) -> None:
        self.text = 5  # type: ignore[assignment]  # that is the point

    @event
    def append_refused(self) -> None:
        self.numbers.append("five")  # type: ignore[arg-type]  # that is the point

    @event
    def put_refused(self) -> None:
        self.nested["a"] = {"b": "c"}  # type: ignore[dict-item]  # that is the point

    @event
    def assign_nan(self) -> None:
        self.ratio = float("nan")

    @event
    def assign_infinity(self) -> None:
        self.ratio = float("-inf")

    @event
    def put_nan(self) -> None:
        self.nested["a"] = {"b": float("nan")}

    @event
    def put_untyped_nan(self) -> None:
        self.anything["a"] = float("nan")

    @event
    def put_untyped_infinity(self) -> None:
        self.anything["a"] = [float("inf")]

    @event
    def put_surrogate(self) -> None:
        self.anything["a"] = "\ud800"

    @event
    def put_surrogate_key(self) -> None:
        self.anything["\udc00"] = 1

    @event
    def put_poison(self) -> None:
        self.anything["__proto__"] = {"a": 1}

    @event
    def put_deep_poison(self) -> None:
        self.anything["a"] = [{"constructor": 1}]

    @event
    def put_unknown_object(self) -> None:
        self.anything["a"] = object()

    @event
    def break_fragment(self) -> None:
        self.text = CANARY

    @event
    def return_nonsense(self) -> Any:
        self.count = 99
        return object()


FAILING = sorted(Fragile.__faststate_events__.keys() - {"succeed"})


@pytest.mark.parametrize("name", FAILING)
async def test_a_failed_event_changes_nothing_anywhere(name: str) -> None:
    app = wrapped((Fragile, GLOBAL), (Other, GLOBAL))
    async with FastStateClient(app) as client, client.stream("Fragile", "Other") as stream:
        await client.call("Fragile/succeed")
        await stream.until(lambda signals: signals.get("count") == 1)
        before = await app.faststate.get(Fragile)
        answer = await client.call(f"Fragile/{name}")
        after = await app.faststate.get(Fragile)
        assert answer.error is not None
        assert set(answer.signals) == set()
        assert (after.version, after.model_dump()) == (before.version, before.model_dump())
        assert (await app.faststate.get(Other)).version == "0"
        seen = len(stream.frames)
        await client.call("Fragile/succeed")
        await stream.until(lambda signals: signals.get("count") == 2)
        assert [frame.patch for frame in stream.frames[seen:]] == [{"count": 2}]


async def test_r27_a_thousand_failing_events_leave_the_version_as_it_was() -> None:
    app = wrapped((Fragile, GLOBAL), (Other, GLOBAL))
    # Those that hang until their time is over would take the longest, and fail in the same way.
    names = [name for name in FAILING if Fragile.__faststate_events__[name].options.timeout_s > 1]
    async with FastStateClient(app) as client:
        await client.call("Fragile/succeed")
        before = await app.faststate.get(Fragile)
        for number in range(1000):
            assert (await client.call(f"Fragile/{names[number % len(names)]}")).error is not None
        after = await app.faststate.get(Fragile)
        assert (after.version, after.model_dump()) == (before.version, before.model_dump())


@pytest.mark.parametrize("is_datastar", [True, False])
@pytest.mark.parametrize("name", FAILING)
async def test_the_text_of_an_exception_stays_on_the_server(name: str, is_datastar: bool) -> None:
    async with FastStateClient(wrapped((Fragile, GLOBAL), (Other, GLOBAL))) as client:
        answer = await client.call(f"Fragile/{name}", datastar=is_datastar)
    assert CANARY not in answer.text
    assert "Traceback" not in answer.text
    assert answer.status == (200 if is_datastar else answer.error["status"])
    assert answer.error["status"] == (504 if name.startswith("time_out") else 500)


@pytest.mark.parametrize("store", ["memory:", "sqlite"])
@pytest.mark.parametrize("name", [name for name in FAILING if "base_error" in name or "cancelled" in name])
async def test_a_handler_that_ends_as_if_it_was_cancelled_has_run_once(name: str, store: str, tmp_path: Path) -> None:
    """The browser would repeat what it takes for the refusal of a server that ends; and nobody hears of a silent end."""
    url = store if store == "memory:" else f"sqlite+aiosqlite:///{tmp_path / 'faststate.db'}"
    async with FastStateClient(wrapped((Fragile, GLOBAL), (Other, GLOBAL), store=url, debug=True)) as client:
        calls = [client.call(f"Fragile/{name}", key="one", datastar=False) for _ in range(2)]
        first, again = await asyncio.gather(*calls)
        later = await client.call(f"Fragile/{name}", key="one", datastar=False)
        following = await client.call("Fragile/succeed")
    assert [answer.status for answer in (first, again, later)] == [500] * 3
    assert first.body == again.body == later.body
    assert following.signals == {"count": 1}


async def test_debug_shows_the_text_of_an_exception() -> None:
    async with FastStateClient(wrapped((Fragile, GLOBAL), (Other, GLOBAL), debug=True)) as client:
        answer = await client.call("Fragile/raise_in_thread")
    assert answer.error is not None
    assert answer.error["detail"] == f"RuntimeError: {CANARY}"


async def test_an_exception_is_logged_with_the_name_of_its_event(caplog: pytest.LogCaptureFixture) -> None:
    async with FastStateClient(wrapped((Fragile, GLOBAL), (Other, GLOBAL))) as client:
        await client.call("Fragile/raise_in_thread")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "Fragile/raise_in_thread" in record.getMessage()
    assert CANARY in str(record.exc_info[1])


async def test_a_thread_that_timed_out_writes_nothing_later() -> None:
    app = wrapped((Fragile, GLOBAL), (Other, GLOBAL))
    async with FastStateClient(app) as client:
        answer = await client.call("Fragile/time_out_in_thread")
        assert answer.error is not None
        assert answer.error["status"] == 504
        assert (await client.call("Fragile/succeed")).signals == {"count": 1}
        async with asyncio.timeout(5):
            while app.faststate.runtime.active:
                await asyncio.sleep(0.01)
        assert (await app.faststate.get(Fragile)).count == 1


async def test_a_transaction_that_raises_changes_nothing() -> None:
    app = wrapped((Fragile, GLOBAL), (Other, GLOBAL))
    async with FastStateClient(app):
        with pytest.raises(RuntimeError, match=CANARY):
            async with app.faststate.transaction(Fragile, Other) as (fragile, other):
                fragile.count = other.other = 99
                raise RuntimeError(CANARY)
        assert (await app.faststate.get(Fragile)).version == "0"
        assert (await app.faststate.get(Other)).version == "0"


async def test_one_refused_state_of_a_transaction_refuses_both() -> None:
    app = wrapped((Fragile, GLOBAL), (Other, GLOBAL))
    async with FastStateClient(app):
        with pytest.raises(ValueError, match="nested"):
            async with app.faststate.transaction(Other, Fragile) as (other, fragile):
                other.other = 1
                fragile.nested["a"] = {"b": "c"}  # type: ignore[dict-item]  # that is the point
        assert (await app.faststate.get(Other)).other == 0


async def test_a_failed_segment_takes_back_only_itself() -> None:
    class Steps(ReactiveState):
        """Fails in its second step."""

        count: int = 0

        @event
        async def go(self) -> AsyncIterator[None]:
            self.count = 1
            yield None
            self.count = 99
            raise RuntimeError(CANARY)

    app = wrapped((Steps, GLOBAL))
    async with FastStateClient(app) as client:
        answer = await client.call("Steps/go")
        assert answer.signals == {"count": 1}
        assert answer.error is not None
        assert answer.error["status"] == 500
        assert CANARY not in answer.text
        assert (await app.faststate.get(Steps)).count == 1


async def test_poison_in_one_page_does_not_stop_the_others() -> None:
    """One value that cannot be sent would end the updates of everybody."""
    app = wrapped((Fragile, GLOBAL), (Other, GLOBAL))
    async with FastStateClient(app) as client, client.stream("Fragile") as one, client.stream("Fragile") as two:
        for name in ("put_poison", "put_surrogate", "put_nan"):
            await client.call(f"Fragile/{name}")
        await client.call("Fragile/succeed")
        for stream in (one, two):
            await stream.until(lambda signals: signals.get("count") == 1)


async def test_what_could_not_be_stored_in_memory_is_not_remembered_as_done() -> None:
    """The answer of the repetition would say that it was."""
    app = wrapped((Held, GLOBAL))
    async with FastStateClient(app) as client:
        store, key = app.faststate.backends.records, {"Idempotency-Key": "one"}
        first = asyncio.ensure_future(client.call("Held/add", headers=key))
        await Held.begun.wait()
        await store.aclose()
        Held.go_on.set()
        answer = await first
        assert answer.error is not None
        assert answer.error["status"] == 503
        await store.open()
        assert (await client.call("Held/add", headers=key)).signals == {"count": 1}
        async with app.faststate.transaction(Held) as state:
            assert state.count == 1
