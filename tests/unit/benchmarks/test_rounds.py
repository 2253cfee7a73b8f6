"""What a question that is answered in rounds measures."""

import pytest

from benchmarks.rounds import Variant, chosen_of

VARIANTS = [
    Variant(name, "benchmarks.apps:app", "/", "session") for name in ("floor", "async, session", "NiceGUI, a click")
]


@pytest.mark.parametrize(
    ("text", "names"), [("", ["async, session", "NiceGUI, a click"]), ("nicegui", ["NiceGUI, a click"])]
)
def test_the_floor_and_what_was_asked_for_are_measured(text, names):
    assert [variant.name for variant in chosen_of(VARIANTS, text)] == ["floor", *names]


def test_a_text_in_no_name_is_refused_with_the_names():
    with pytest.raises(SystemExit, match="'redis' chooses none of: async, session; NiceGUI, a click"):
        chosen_of(VARIANTS, "redis")
