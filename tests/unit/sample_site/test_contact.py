"""What the contact form promises."""

import pytest

from faststate_asgi import Dispatch
from sample_site.contact import ContactState, email_error, message_error, name_error

GOOD = ("Ada", "ada@example.org", "I need a new engine.")


def test_a_good_form_is_accepted_and_emptied() -> None:
    contact = ContactState()
    assert contact.send(*GOOD) == Dispatch("contact-sent")
    assert "Ada" in contact.thanks
    assert (contact.name, contact.email, contact.message) == ("", "", "")
    assert (contact.name_error, contact.email_error, contact.message_error) == ("", "", "")


def test_each_field_has_its_own_error() -> None:
    contact = ContactState()
    assert contact.send(" ", "ada", "short") is None
    assert contact.name_error
    assert contact.email_error
    assert contact.message_error
    assert contact.thanks == ""


def test_a_refused_form_keeps_what_was_typed() -> None:
    contact = ContactState()
    contact.send("Ada", "ada", GOOD[2])
    assert (contact.name, contact.email, contact.message) == ("Ada", "ada", GOOD[2])
    assert (contact.name_error, contact.message_error) == ("", "")


def test_errors_go_away_when_they_are_mended() -> None:
    contact = ContactState()
    contact.send("", "", "")
    contact.send(*GOOD)
    assert (contact.name_error, contact.email_error, contact.message_error) == ("", "", "")


def test_what_was_typed_never_travels_as_a_signal() -> None:
    contact = ContactState()
    contact.send("Ada", "wrong", "short")
    assert set(contact.signals()["contact"]) == {"name_error", "email_error", "message_error", "thanks"}  # type: ignore[arg-type]


@pytest.mark.parametrize("email", ["", "ada", "@", "ada@", "@example.org", "a b@example.org"])
def test_what_is_no_address_is_refused(email: str) -> None:
    assert email_error(email)


@pytest.mark.parametrize("email", ["ada@example.org", "a@b", '"a@b"@example.org'])
def test_unusual_addresses_are_accepted(email: str) -> None:
    assert email_error(email) == ""


def test_ten_characters_are_enough() -> None:
    assert message_error("x" * 9)
    assert message_error("x" * 10) == ""
    assert name_error("A") == ""
