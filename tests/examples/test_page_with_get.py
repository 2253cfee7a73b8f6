"""A page that asks for its state itself: ``CounterState.get(req)`` and ``await CounterState.aget(req)``."""

from typing import Any

import pytest
from fasthtml.common import Button, Div, Main, Span

from faststate_asgi import FastStateMiddleware, Live, ReactiveState, event
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class CounterState(ReactiveState):
    """The smallest counter; it is never registered by hand."""

    count: int = 0

    @event
    def increment(self, amount: int = 1) -> None:
        """Add to the count."""
        self.count += amount

    @event
    def reset(self) -> None:
        """Start again."""
        self.count = 0


def counter_page(counter: CounterState) -> Any:
    """The page, however the state came."""
    return Main(
        Div("Count: ", Span(counter.count, data_text="$count"), id="shown"),
        Button("+", **{"data-on:click": CounterState.increment(1)}),
        Button("Reset", **{"data-on:click": CounterState.reset()}),
        Live(counter),
    )


@pytest.fixture
def site(new_app: Any, wrap: Any) -> FastStateMiddleware:
    """The page once as ``def`` and once as ``async def``."""
    app, rt = new_app()

    @rt("/")
    def home(req) -> Any:  # type: ignore[no-untyped-def]
        return counter_page(CounterState.get(req))

    @rt("/async")
    async def home_async(req) -> Any:  # type: ignore[no-untyped-def]
        return counter_page(await CounterState.aget(req))

    return wrap(app)


@pytest.mark.parametrize("path", ["/", "/async"])
async def test_plus_adds_one_and_reset_gives_zero(
    site: FastStateMiddleware, path: str, read_page: Any, press: Any
) -> None:
    async with FastStateClient(site) as client:
        page = read_page(await client.get(path))
        assert page.one("div", id="shown").text == "Count: 0"
        for _ in range(2):
            await press(client, page.button("+")["data-on:click"])
        assert read_page(await client.get(path)).one("div", id="shown").text == "Count: 2"
        await press(client, page.button("Reset")["data-on:click"])
        page = read_page(await client.get(path))
    assert page.one("div", id="shown").text == "Count: 0"
    assert page.signals == {"count": 0}


def test_calls_on_the_class_are_datastar_actions() -> None:
    increment, reset = CounterState.increment(2), CounterState.reset()
    assert increment.startswith("@post('/faststate/events/CounterState/increment', {payload: {\"amount\": 2}, ")
    assert reset.startswith("@post('/faststate/events/CounterState/reset', {payload: {}, ")
    for action in (increment, reset):
        assert "requestCancellation: 'disabled'" in action
        assert "'Idempotency-Key': crypto.getRandomValues(new Uint32Array(4)).join('-')" in action


def test_calls_on_an_instance_just_run() -> None:
    counter = CounterState()
    counter.increment(5)
    assert counter.count == 5
