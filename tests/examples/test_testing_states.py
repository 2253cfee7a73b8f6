"""How users test their states: as plain objects, through the client, and with a state set beforehand."""

from typing import Any

import pytest
from fasthtml.common import P
from starlette.responses import PlainTextResponse

from faststate_asgi import (
    FastStateMiddleware,
    Live,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class CounterState(ReactiveState):
    """The counter under test."""

    count: int = 0
    message: str = "Welcome!"

    @event
    def increment(self, amount: int = 1) -> None:
        """Add to the count."""
        self.count += amount

    @event
    def reset(self) -> None:
        """Start again."""
        self.count = 0
        self.message = "Counter reset!"


class SiteCounter(ReactiveState):
    """A counter for everybody."""

    visits: int = 0


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """A dashboard with two counters."""
    registry.register(CounterState)
    registry.register(SiteCounter, StateConfig(scope=StateScope.GLOBAL))
    app, rt = new_app()

    @rt("/dashboard")
    def dashboard(counter: CounterState, site_counter: SiteCounter) -> Any:
        return (
            Live(counter),
            P(f"Count: {counter.count}", id="count"),
            P(f"Visits: {site_counter.visits}", id="visits"),
        )

    @rt("/session")
    async def session(req) -> Any:  # type: ignore[no-untyped-def]
        await CounterState.aget(req)
        return PlainTextResponse(req.scope["faststate"].session_id)

    return wrap(app)


class TestCounterState:
    """The state alone, without app and request."""

    def test_increment(self) -> None:
        state = CounterState()
        assert state.count == 0
        state.increment(5)
        assert state.count == 5

    def test_reset(self) -> None:
        state = CounterState(count=10)
        state.reset()
        assert (state.count, state.message) == (0, "Counter reset!")

    async def test_event_response(self, site: FastStateMiddleware) -> None:
        async with FastStateClient(site) as client:
            answer = await client.call(CounterState.increment, 5)
        assert [frame.event for frame in answer.frames] == ["datastar-patch-signals"]
        assert answer.signals == {"count": 5}


async def test_a_page_and_an_event_answer_200(site: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(site) as client:
        page = read_page(await client.get("/dashboard"))
        response = await client.post("/faststate/events/CounterState/increment", data={"amount": "5"})
    assert page.one("p", id="count").text == "Count: 0"
    assert response.status == 200
    assert "event: datastar-patch-signals" in response.text.split("\n")


async def test_one_client_keeps_its_count_over_requests(
    site: FastStateMiddleware, read_page: Any, browsers: Any
) -> None:
    async with browsers(site, 2) as (client, other):
        await client.call(CounterState.increment)
        await client.call(CounterState.increment, 41)
        texts = [read_page(await c.get("/dashboard")).one("p", id="count").text for c in (client, other)]
    assert texts == ["Count: 42", "Count: 0"]


async def test_a_state_set_beforehand_is_what_the_page_shows(site: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(site) as client:
        session_id = (await client.get("/session")).text
        async with site.faststate.transaction(CounterState, session_id=session_id) as counter:
            counter.count = 42
        async with site.faststate.transaction(SiteCounter) as site_counter:
            site_counter.visits = 1234
        page = read_page(await client.get("/dashboard"))
    assert page.one("p", id="count").text == "Count: 42"
    assert page.one("p", id="visits").text == "Visits: 1234"
    assert page.signals["count"] == 42
