"""A counter that everybody shares, with a drawing of its last values."""

from typing import Annotated

from fasthtml.common import FT, Button, Div, Output, P
from fasthtml.svg import Circle, Polyline, Svg
from pydantic import Field
from starlette.requests import Request

from faststate_asgi import Private, ReactiveState, StateConfig, StateScope, event, fragment, state_registry

from .layout import card, frame

KEPT = 40
WIDTH, HEIGHT, MARGIN = 400, 96, 8

Step = Annotated[int, Field(ge=-10, le=10)]


class CounterState(ReactiveState):
    """One number for the whole world."""

    total: int = 0
    recent: Private[list[int]] = Field([0])

    @event(inline=True, rate_limit="30/s")
    def increment(self, amount: Step = 1) -> None:
        """Add to the number, for everybody."""
        self.total += amount
        self.recent = [*self.recent, self.total][-KEPT:]

    @fragment(on=("recent",))
    def curve(self) -> FT:
        """Draw the last values, for every open page."""
        return curve_of(self.recent)


state_registry.register(CounterState, StateConfig(scope=StateScope.GLOBAL, namespace="counter", auto_persist=True))


async def page(req: Request, counter: CounterState) -> tuple[FT, ...]:
    """Return the page of the shared counter."""
    return await frame(
        req,
        card(
            "Everybody's counter",
            Output(
                counter.total,
                {"data-text": CounterState.signal.total},
                id="total",
                cls="number",
                aria_label="Total",
            ),
            Div(
                Button("−1", {"data-on:click": CounterState.increment(-1)}, type="button", cls="quiet"),
                Button("+1", {"data-on:click": CounterState.increment(1)}, type="button"),
                Button("+10", {"data-on:click": CounterState.increment(10)}, type="button"),
                cls="buttons",
            ),
            counter.curve(),
            P(f"The line shows the last {KEPT} values. It is drawn on the server.", cls="muted"),
            cls="counter",
        ),
        title="One number for everybody",
        letter="C",
        lead="This state is global. Whoever presses a button moves the number in every browser that has "
        "this page open. Two presses at the same moment are two turns: none is lost.",
        states=(counter,),
        code=(CounterState,),
    )


def curve_of(values: list[int]) -> FT:
    """Return ``values`` as a line from left to right that fills the height."""
    low, high = min(values), max(values)
    step = (WIDTH - 2 * MARGIN) / max(len(values) - 1, 1)
    scale = (HEIGHT - 2 * MARGIN) / max(high - low, 1)
    points = [(MARGIN + step * i, HEIGHT - MARGIN - scale * (value - low)) for i, value in enumerate(values)]
    last_x, last_y = points[-1]
    return Svg(
        Polyline(points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points)),
        Circle(5, last_x, last_y),
        id="curve",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"The last values, from {low} to {high}",
        cls="curve",
    )
