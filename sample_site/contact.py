"""A form whose errors appear next to its fields."""

from typing import Annotated

from fasthtml.common import FT, Button, Div, Form, Input, Label, P, Textarea
from pydantic import StringConstraints
from starlette.requests import Request

from faststate_asgi import Dispatch, Private, ReactiveState, StateConfig, event, state_registry

from .layout import card, frame

SHORTEST = 10
LONGEST = {"name": 80, "email": 254, "message": 2000}
# Not reset(), which would bring back what the page was loaded with.
EMPTY_FIELDS = "el.querySelectorAll('[name]').forEach(field => field.value = '')"

# The browser keeps to these; who does not use one is refused.
Name = Annotated[str, StringConstraints(max_length=LONGEST["name"])]
Email = Annotated[str, StringConstraints(max_length=LONGEST["email"])]
Message = Annotated[str, StringConstraints(max_length=LONGEST["message"])]


class ContactState(ReactiveState):
    """One visitor's form and what is wrong with it."""

    name_error: str = ""
    email_error: str = ""
    message_error: str = ""
    thanks: str = ""
    # What was typed: a reload does not lose it.
    name: Private[str] = ""
    email: Private[str] = ""
    message: Private[str] = ""

    @event
    def send(
        self,
        name: Name,
        email: Email,
        message: Message,
    ) -> Dispatch | None:
        """Check the form; when all is well, accept it."""
        self.name = name
        self.email = email
        self.message = message
        self.name_error = name_error(name.strip())
        self.email_error = email_error(email.strip())
        self.message_error = message_error(message.strip())
        self.thanks = ""
        if self.name_error or self.email_error or self.message_error:
            return None
        self.thanks = f"Thank you, {name.strip()}!"
        self.name = self.email = self.message = ""
        return Dispatch("contact-sent")


# What was typed is personal: a day is enough to finish the form.
state_registry.register(ContactState, StateConfig(namespace="contact", ttl=24 * 3600))


def name_error(name: str) -> str:
    """Return what is wrong with a name, or an empty text."""
    return "" if name else "Please tell us your name."


def email_error(email: str) -> str:
    """Return what is wrong with an address, or an empty text; only a mail can tell whether it is real."""
    before, _, after = email.partition("@")
    is_possible = before and after and not any(sign.isspace() for sign in email)
    return "" if is_possible else "Please write an address such as ada@example.org."


def message_error(message: str) -> str:
    """Return what is wrong with a message, or an empty text."""
    return "" if len(message) >= SHORTEST else f"Please write at least {SHORTEST} characters."


async def page(req: Request, contact: ContactState) -> tuple[FT, ...]:
    """Return the form."""
    return await frame(
        req,
        card("Write to us", _form(contact)),
        title="Ask for help",
        letter="V",
        lead="The form is checked where it cannot be tricked: on the server. Send it empty and see what "
        "comes back. Nothing is really mailed.",
        states=(contact,),
        code=(ContactState,),
    )


def _form(contact: ContactState) -> FT:
    """Return the form; it is emptied by the event that the server sends once it was accepted."""
    name = Input(value=contact.name, autocomplete="name", **_field("name"))
    email = Input(value=contact.email, type="email", autocomplete="email", **_field("email"))
    message = Textarea(contact.message, rows="5", **_field("message"))
    return Form(
        _row("Your name", name, "name", contact.name_error),
        _row("Your e-mail address", email, "email", contact.email_error),
        _row("Your message", message, "message", contact.message_error),
        Button("Send", type="submit"),
        P(contact.thanks, {"data-text": ContactState.signal.thanks}, cls="success", role="status"),
        {
            "data-on:submit": ContactState.send.form(),
            "data-on:contact-sent__document": EMPTY_FIELDS,
        },
        novalidate=True,
        cls="form",
    )


def _field(name: str) -> dict[str, str]:
    """Return the attributes that tie a field to its error."""
    return {
        "id": name,
        "name": name,
        "maxlength": str(LONGEST[name]),
        "aria-describedby": f"{name}-error",
        "data-attr:aria-invalid": f"{_error_signal(name)} ? 'true' : 'false'",
    }


def _row(label: str, field: FT, name: str, error: str) -> FT:
    """Return a field with its label above and its error below."""
    return Div(
        Label(label, fr=name),
        field,
        P(error, {"data-text": _error_signal(name)}, id=f"{name}-error", cls="error", role="alert"),
        cls="field",
    )


def _error_signal(name: str) -> str:
    """Return the expression of a field's error."""
    return str(getattr(ContactState.signal, f"{name}_error"))
