"""What a user keeps: the same on every device, and read by nobody else."""

from typing import Annotated

from fasthtml.common import FT, A, Button, Div, Form, Input, Label, P, Span
from pydantic import Field
from starlette.requests import Request

from faststate_asgi import ReactiveState, StateConfig, StateScope, event, state_registry

from .admin import NoticeState
from .layout import card, frame

LONGEST_NAME = 40


class ProfileState(ReactiveState):
    """How one user wants to be called."""

    called: str = ""
    changes: int = 0

    @event
    def rename(self, called: Annotated[str, Field(max_length=LONGEST_NAME)]) -> None:
        """Take another name."""
        self.called = called.strip()
        self.changes += 1


state_registry.register(ProfileState, StateConfig(scope=StateScope.USER, namespace="profile", auto_persist=True))


async def page(req: Request, profile: ProfileState, notice: NoticeState) -> tuple[FT, ...]:
    """Return a user's own page; who is not logged in is sent to the login and back."""
    return await frame(
        req,
        card("Your name aboard", _greeting(profile), _form(profile)),
        card("From the harbour office", *_notice(notice)),
        title="Your cabin",
        letter="I",
        lead="This state belongs to a user, not to a browser. Log in on a second device and watch both.",
        states=(profile, notice),
        code=(ProfileState,),
    )


def _greeting(profile: ProfileState) -> FT:
    """Return the name as it is kept."""
    called = ProfileState.signal.called
    return P(
        Span("Welcome aboard, "),
        Span(profile.called or "sailor", {"data-text": f"{called} || 'sailor'"}, id="called", cls="user"),
    )


def _form(profile: ProfileState) -> FT:
    """Return the form for another name."""
    return Form(
        Div(
            Label("Call me", fr="call-me"),
            Input(
                id="call-me", name="called", value=profile.called, maxlength=str(LONGEST_NAME), autocomplete="nickname"
            ),
            cls="field",
        ),
        Button("Save", type="submit"),
        {"data-on:submit": ProfileState.rename.form()},
        cls="form",
    )


def _notice(notice: NoticeState) -> tuple[FT, ...]:
    """Return what the administrator wrote, and the way there."""
    text = NoticeState.signal.text
    return (
        P(notice.text or "Nothing new.", {"data-text": f"{text} || 'Nothing new.'"}, id="notice"),
        P(A("To the harbour office", href="/admin")),
    )
