"""A small site for a real server and a real browser: a counter whose page is watched live."""

from typing import Any

from fasthtml.common import H1, Button, Main, P, Span, fast_app

from faststate_asgi import FastStateMiddleware, ReactiveState, StateRegistry, datastar_script, event


class CounterState(ReactiveState):
    """A counter with a message."""

    count: int = 0
    message: str = "Welcome to FastState!"

    @event
    def increment(self, amount: int = 1) -> None:
        """Add to the count."""
        self.count += amount

    @event
    def reset(self) -> None:
        """Start again."""
        self.count = 0
        self.message = "Counter reset!"


pages, rt = fast_app(secret_key="only-for-example-tests-" + "x" * 32, default_hdrs=False, hdrs=(datastar_script(),))


@rt("/")
def index(counter: CounterState) -> Any:
    """Show the counter."""
    return Main(
        H1("Count: ", Span(counter.count, id="count", data_text=CounterState.signal.count)),
        P(counter.message, id="message", data_text=CounterState.signal.message),
        Button("Increment", **{"data-on:click": CounterState.increment(1)}),
        Button("Add 5", **{"data-on:click": CounterState.increment(5)}),
        Button("Reset", **{"data-on:click": CounterState.reset()}),
        counter,
    )


app = FastStateMiddleware(pages, registry=StateRegistry(), secret_key="only-for-example-tests-" + "x" * 32)
