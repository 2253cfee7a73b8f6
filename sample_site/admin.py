"""The administrator's page: a role opens it, and one rule says who reads and who writes."""

from typing import Annotated

from fasthtml.common import FT, Button, Div, Form, Input, Label, P
from pydantic import Field
from starlette.requests import Request

from faststate_asgi import (
    Identity,
    ReactiveState,
    StateConfig,
    StateKey,
    StateScope,
    event,
    requires_auth,
    state_registry,
)

from .layout import card, frame

LONGEST_NOTICE = 120


class NoticeState(ReactiveState):
    """What every user reads, and only administrators write."""

    text: str = ""

    @event
    def publish(self, text: Annotated[str, Field(max_length=LONGEST_NOTICE)]) -> None:
        """Show another text in all cabins."""
        self.text = text.strip()


def may(identity: Identity | None, key: StateKey, action: str) -> bool:
    """Say whether somebody may do this: users read and watch, administrators write."""
    if identity is None:
        return False
    return action != "write" or "admin" in identity.roles


state_registry.register(
    NoticeState, StateConfig(scope=StateScope.GLOBAL, namespace="notice", authorize=may, auto_persist=True)
)


@requires_auth(roles="admin")
async def page(req: Request, notice: NoticeState) -> tuple[FT, ...]:
    """Return the page; who lacks the role never comes this far."""
    return await frame(
        req,
        card("A notice for everybody", _form(notice), _shown(notice)),
        title="The harbour office",
        letter="A",
        lead="A role opens this page. What is written here stands in every user's cabin at once.",
        states=(notice,),
        code=(NoticeState,),
    )


def _form(notice: NoticeState) -> FT:
    """Return the form for another notice."""
    return Form(
        Div(
            Label("Notice", fr="text"),
            Input(id="text", name="text", value=notice.text, maxlength=str(LONGEST_NOTICE), autocomplete="off"),
            cls="field",
        ),
        Button("Publish", type="submit"),
        {"data-on:submit": NoticeState.publish.form()},
        cls="form",
    )


def _shown(notice: NoticeState) -> FT:
    """Return the notice as users see it."""
    text = NoticeState.signal.text
    return P(notice.text or "Nothing new.", {"data-text": f"{text} || 'Nothing new.'"}, id="notice", cls="muted")
