"""What type checkers know about events: on a class they build actions, on an instance they are methods."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from faststate_asgi import Action, Bound, Private, ReactiveState, Writable, event
from faststate_asgi.actions import Expression


class CounterState(ReactiveState):
    """Has an event of each form."""

    count: int = 0
    note: Bound[str] = ""
    token: Private[str] = ""

    @event
    def increment(self, amount: int = 1) -> None:
        """Count."""
        self.count += amount

    @event("/counters/reset")
    async def reset(self, to: int, *, note: str = "") -> str:
        """Start again."""
        self.count = to
        return note

    @event(method="put", selector="#box", mode="inner", timeout=5)
    def show(self) -> str:
        """Show the count."""
        return str(self.count)

    @event
    def count_up(self, to: int) -> Iterator[None]:
        """Count in steps."""
        while self.count < to:
            self.count += 1
            yield

    @event
    async def count_down(self) -> AsyncIterator[str]:
        """Count the other way."""
        yield str(self.count)


class Wallet(ReactiveState):
    """Joins another state."""

    money: int = 0

    @event
    async def pay(self, amount: int, counter: Writable[CounterState]) -> None:
        """Change both."""
        assert_type(counter.count, int)
        self.money -= amount


def on_the_class() -> None:
    """An event on its class builds an action."""
    assert_type(CounterState.increment(), Action)
    assert_type(CounterState.increment(2), Action)
    assert_type(CounterState.increment(amount=2), Action)
    assert_type(CounterState.reset(5, note="x"), Action)
    assert_type(CounterState.show(), Action)
    assert_type(CounterState.count_up(3), Action)
    assert_type(CounterState.increment.form(), Action)
    assert_type(CounterState.increment.from_signals(), Action)
    assert_type(CounterState.increment(2).options(retry="never"), Action)
    assert_type(CounterState.setter("note"), Action)
    assert_type(CounterState.signal.count, Expression)


async def on_an_instance(counter: CounterState) -> None:
    """An event on an instance is the method."""
    counter.increment(2)
    assert_type(await counter.reset(5), str)
    assert_type(counter.show(), str)
    assert_type(counter.count_up(3), Iterator[None])
    assert_type(counter.count_down(), AsyncIterator[str])
    assert_type(counter.count, int)
    assert_type(counter.note, str)
    assert_type(counter.token, str)
    text: str = counter.id
    assert text
    assert_type(counter.version, str)
