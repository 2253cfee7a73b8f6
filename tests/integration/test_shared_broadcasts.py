"""What an event broadcasts in one process reaches the open streams of the others, once and in order."""

from pathlib import Path

import pytest

from faststate_asgi import FastStateMiddleware, Html, ReactiveState, event
from faststate_asgi.testing import FastStateClient
from tests.apps.shared_clients import STORES, store_of
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
LONG = "é" * 20_000


class Bell(ReactiveState):
    """Everybody hears it."""

    count: int = 0

    @event(broadcast=True, selector="#log", mode="append")
    def ring(self, text: str) -> Html:
        return Html(f"<p>{text}</p>")

    @event(broadcast=True, selector="#log", mode="append")
    def ring_and_count(self, text: str) -> Html:
        self.count += 1
        return Html(f"<p>{text}</p>")


@pytest.fixture(params=STORES)
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> list[FastStateMiddleware]:
    """Two engines on one store, as two processes have them."""
    url = store_of(request, tmp_path)
    return [wrapped((Bell, GLOBAL), store=url, debug=True) for _ in range(2)]


async def test_a_broadcast_reaches_the_streams_of_every_process(processes: list[FastStateMiddleware]) -> None:
    said = ["one", "two", LONG, "two", "last"]
    async with (
        FastStateClient(processes[0]) as here,
        FastStateClient(processes[1]) as there,
        there.stream("Bell") as far,
        here.stream("Bell") as near,
        there.stream("Bell") as other,
    ):
        for text in said:
            await here.call(Bell.ring_and_count if text == "two" else Bell.ring, text)
        for stream in (far, near, other):
            heard: list[str] = []
            while len(heard) < len(said):
                frame = await stream.next()
                if frame.selector == "#log":
                    heard.append(frame.html)
            assert heard == [f"<p>{text}</p>" for text in said]
            await stream.until(lambda signals: signals.get("count") == 2)
