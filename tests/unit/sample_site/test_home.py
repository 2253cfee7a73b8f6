"""What the first page's state promises."""

import pytest
from pydantic import ValidationError

from sample_site.home import NOTE_LENGTH, HomeState


def test_buttons_count_up_and_down() -> None:
    home = HomeState()
    home.change(1)
    home.change(1)
    home.change(-3)
    assert home.count == -1


def test_reset_goes_back_to_zero() -> None:
    home = HomeState(count=7)
    home.reset()
    assert home.count == 0


def test_a_note_that_is_too_long_is_refused() -> None:
    home = HomeState(note="x" * NOTE_LENGTH)
    with pytest.raises(ValidationError):
        home.note = "x" * (NOTE_LENGTH + 1)
    assert home.note == "x" * NOTE_LENGTH


def test_the_page_gets_the_count_and_the_note() -> None:
    assert HomeState(count=2, note="hi").signals() == {"count": 2, "note": "hi"}
