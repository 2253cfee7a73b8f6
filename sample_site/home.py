"""The first page: a counter and a text of one's own, kept by the server for one browser session."""

from typing import Annotated

from fasthtml.common import FT, H2, A, Button, Div, Input, Label, Output, P, Section, Span
from pydantic import Field
from starlette.requests import Request

from faststate_asgi import Bound, ReactiveState, StateConfig, event, state_registry

from .flags import flag
from .layout import card, frame

NOTE_LENGTH = 120
TOUR = (
    ("/counter", "C", "A global state", "One number that everybody sees and moves."),
    ("/chat", "K", "A fragment", "A list drawn on the server, live for all."),
    ("/contact", "V", "A form", "Errors beside the fields, checked where it counts."),
    ("/job", "J", "A generator", "A progress bar moved by yield."),
    ("/products", "P", "Records", "One state for each product, one stock for all."),
    ("/reports", "R", "Permissions", "A page that asks who you are. Be ada, then bob."),
    ("/profile", "I", "A user state", "Yours on every device, once you are logged in."),
    ("/admin", "A", "A role and a rule", "Everybody reads it, grace writes it."),
)

Step = Annotated[int, Field(ge=-10, le=10)]


class HomeState(ReactiveState):
    """What one visitor counted and wrote."""

    count: int = 0
    note: Bound[str] = Field("", max_length=NOTE_LENGTH)

    @event(inline=True)
    def change(self, amount: Step) -> None:
        """Count up or down."""
        self.count += amount

    @event(inline=True)
    def reset(self) -> None:
        """Begin again at zero."""
        self.count = 0


# As long as a session can last without a change.
state_registry.register(HomeState, StateConfig(ttl=90 * 24 * 3600))


async def page(req: Request, home: HomeState) -> tuple[FT, ...]:
    """Return the first page."""
    return await frame(
        req,
        _counter(home),
        _note(home),
        title="State on the server, pages that follow",
        letter="H",
        lead="Write a Python class. Put its fields into a page. Every change reaches each open tab by "
        "itself: open this page in a second tab and watch.",
        states=(home,),
        code=(HomeState,),
        below=_tour(),
    )


def _counter(home: HomeState) -> FT:
    """Return the counter with its three buttons."""
    return card(
        "Your own counter",
        Output(
            home.count,
            {"data-text": HomeState.signal.count},
            id="count",
            cls="number",
            aria_label="Your count",
        ),
        Div(
            Button("−", {"data-on:click": HomeState.change(-1)}, type="button", aria_label="Count down"),
            Button(
                "0",
                {"data-on:click": HomeState.reset()},
                type="button",
                aria_label="Back to zero",
                cls="quiet",
            ),
            Button("+", {"data-on:click": HomeState.change(1)}, type="button", aria_label="Count up"),
            cls="buttons",
        ),
        cls="counter",
    )


def _note(home: HomeState) -> FT:
    """Return the text that is bound both ways."""
    return card(
        "A text, bound both ways",
        Div(
            Label("Your note", fr="note"),
            Input(
                _two_way(),
                id="note",
                value=home.note,
                maxlength=str(NOTE_LENGTH),
                autocomplete="off",
                placeholder="Type here, read it in the other tab",
            ),
            cls="field",
        ),
        P(
            Span("The page says: "),
            Output(home.note, {"data-text": HomeState.signal.note}, fr="note", cls="echo"),
            cls="muted",
        ),
    )


def _two_way() -> dict[str, str]:
    """Return the attributes that send what is typed, and show what was sent from elsewhere.

    Not ``data-bind``: the answer to the first letters would arrive while the next ones are typed, and undo them. The
    field follows the state only when nobody has typed for a second.
    """
    note = HomeState.signal.note
    return {
        "data-signals:_typing": "false",
        "data-on:input": "$_typing = true",
        "data-on:input__debounce.200ms": f"{note} = el.value; {HomeState.setter('note')}",
        "data-on:input__debounce.1000ms": "$_typing = false",
        "data-effect": f"$_typing || (el.value = {note})",
    }


def _tour() -> FT:
    """Return the way to the other pages."""
    return Section(H2("More to see"), Div(*(_stop(*stop) for stop in TOUR), cls="stops"), cls="tour")


def _stop(href: str, letter: str, title: str, text: str) -> FT:
    """Return the way to one page."""
    words = Span(Span(title, cls="stop-title"), Span(text, cls="muted"))
    return A(flag(letter), words, href=href, cls="card stop")
