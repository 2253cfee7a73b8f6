"""A room where everybody talks: the list is drawn on the server and never travels as a signal."""

from datetime import UTC, datetime
from typing import Annotated

from fasthtml.common import FT, Bdi, Button, Div, Form, Input, Label, Li, Ol, P, Span, Time
from pydantic import BaseModel, Field, StringConstraints
from starlette.requests import Request

from faststate_asgi import (
    BadRequestError,
    Dispatch,
    Private,
    ReactiveState,
    StateConfig,
    StateScope,
    Writable,
    event,
    fragment,
    state_registry,
)

from .layout import card, frame

KEPT = 50
NAME_LENGTH = 30
TEXT_LENGTH = 500

Name = Annotated[str, StringConstraints(max_length=NAME_LENGTH)]
Text = Annotated[str, StringConstraints(max_length=TEXT_LENGTH)]


class Message(BaseModel):
    """One thing that somebody said."""

    name: str
    text: str
    said_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class VisitorState(ReactiveState):
    """The name under which one visitor talks."""

    nickname: Private[str] = ""


class ChatState(ReactiveState):
    """The room and its last messages."""

    said: int = 0
    messages: Private[list[Message]] = Field([])

    @event(rate_limit="5/s")
    def say(
        self,
        name: Name,
        text: Text,
        visitor: Writable[VisitorState],
    ) -> Dispatch:
        """Add a message, and remember the name."""
        name, text = name.strip(), text.strip()
        if not name:
            raise BadRequestError("Tell us your name first.")
        if not text:
            raise BadRequestError("Write a message first.")
        message = Message(name=name, text=text)
        self.messages = [*self.messages, message][-KEPT:]
        self.said += 1
        visitor.nickname = name
        return Dispatch("chat-said")

    @fragment(on=("messages",))
    def log(self) -> FT:
        """Draw the messages, for every open page."""
        return log_of(self.messages)


# Both in the durable store, because they change together; a name goes when its visitor has long been silent.
state_registry.register(VisitorState, StateConfig(auto_persist=True, ttl=90 * 24 * 3600, expire=True))
state_registry.register(ChatState, StateConfig(scope=StateScope.GLOBAL, namespace="chat", auto_persist=True))


async def page(req: Request, chat: ChatState, visitor: VisitorState) -> tuple[FT, ...]:
    """Return the chat room."""
    return await frame(
        req,
        card(
            "The room",
            # Two boxes, so that the outer one can keep the newest message in sight without a script.
            Div(Div(chat.log()), cls="room", role="log", aria_label="Messages", tabindex="0"),
            _form(visitor.nickname),
            P(
                Span(chat.said, {"data-text": ChatState.signal.said}),
                f" said so far, the last {KEPT} are kept.",
                cls="muted",
            ),
        ),
        title="Talk to each other",
        letter="K",
        lead="Open this page in two browsers. The list is a fragment: when a message is "
        "stored, the server draws the list once and sends it to every open page.",
        states=(chat,),
        code=(ChatState,),
    )


def _form(nickname: str) -> FT:
    """Return the form; the text is emptied when the server has accepted it."""
    return Form(
        Div(
            Label("Your name", fr="name"),
            Input(id="name", value=nickname, maxlength=str(NAME_LENGTH), required=True, autocomplete="nickname"),
            cls="field",
        ),
        Div(
            Label("Message", fr="text"),
            Input(
                {"data-on:chat-said__document": "el.value = ''"},
                id="text",
                maxlength=str(TEXT_LENGTH),
                required=True,
                autocomplete="off",
            ),
            cls="field",
        ),
        Button("Send", type="submit"),
        {"data-on:submit": ChatState.say.form()},
        cls="chat-form",
    )


def log_of(messages: list[Message]) -> FT:
    """Return the list of all messages."""
    items = [_item(message) for message in messages] or [Li("Nobody has said anything yet. Begin!", cls="empty")]
    return Ol(*items, id="messages", cls="messages")


def _item(message: Message) -> FT:
    """Return one message; what people typed is text, whatever it looks like."""
    return Li(
        # bdi: a name written from right to left does not turn the line around it.
        Bdi(message.name, cls="who"),
        Time(f"{message.said_at:%H:%M}", datetime=message.said_at.isoformat(timespec="seconds")),
        P(message.text, dir="auto"),
    )
