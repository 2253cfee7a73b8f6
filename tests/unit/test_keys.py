"""No two states share a key, and a key's text leads back to it."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faststate_asgi import BadRequestError, StateKey, StateScope
from faststate_asgi.keys import checked_id, state_id

TEXT = st.text(min_size=1, max_size=12) | st.sampled_from(["a:b", "%3A", "*", "42}:admin", "a", "a%2Cb", "ü"])
KEYS = st.one_of(
    st.builds(lambda n: StateKey(StateScope.GLOBAL, n), TEXT),
    st.builds(lambda n, s: StateKey(StateScope.SESSION, n, session_id=s), TEXT, TEXT),
    st.builds(lambda n, u: StateKey(StateScope.USER, n, user_id=u), TEXT, TEXT),
    st.builds(lambda n, s, c: StateKey(StateScope.COMPONENT, n, session_id=s, component_id=c), TEXT, TEXT, TEXT),
    st.builds(lambda n, r: StateKey(StateScope.RECORD, n, record_id=r), TEXT, TEXT),
)


@given(KEYS)
def test_a_keys_text_leads_back_to_the_key(key: StateKey) -> None:
    assert StateKey.parse(str(key)) == key


@given(KEYS, KEYS)
def test_two_keys_never_share_a_text_or_an_id(one: StateKey, other: StateKey) -> None:
    assert (str(one) == str(other)) is (one == other)
    assert (state_id(one) == state_id(other)) is (one == other)


@given(KEYS)
def test_a_label_can_stand_in_a_list_and_a_query(key: StateKey) -> None:
    assert not set(key.label) & set(",&#?= +")
    assert key.label.count(":") == (0 if key.own_id is None else 1)


@pytest.mark.parametrize("text", ["", "global", "nonsense:a", "session:a", "record:a:b:c", "user:a:b:c"])
def test_other_texts_are_no_keys(text: str) -> None:
    with pytest.raises(ValueError, match="not the text form"):
        StateKey.parse(text)


@pytest.mark.parametrize("value", ["", "x" * 257, "ü" * 129, "a\x00", "a\n", "\x7f", "\ud800"])
def test_what_cannot_be_an_id_is_refused(value: str) -> None:
    with pytest.raises(BadRequestError, match="record_id"):
        checked_id(value, "record_id")


@pytest.mark.parametrize("value", ["1", "x" * 256, "ü" * 128, "a b", "../..", "*"])
def test_everything_else_can_be_an_id(value: str) -> None:
    assert checked_id(value, "record_id") == value


def test_a_key_cannot_be_changed() -> None:
    key = StateKey(StateScope.GLOBAL, "A")
    with pytest.raises(FrozenInstanceError):
        key.name = "B"  # type: ignore[misc]  # that is the point
    with pytest.raises(FrozenInstanceError):
        del key.name
    assert key.name == "A"


def test_a_scope_may_be_given_by_its_value() -> None:
    assert StateKey("global", "A").scope is StateScope.GLOBAL  # type: ignore[arg-type]  # not everybody checks types
    with pytest.raises(ValueError, match="planet"):
        StateKey("planet", "A")  # type: ignore[arg-type]  # that is the point
