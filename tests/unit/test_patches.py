"""Differences between JSON values, and what a page holds after them."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from faststate_asgi import InvalidStateError
from faststate_asgi.patches import Text, difference, encoded, merge, merged, nest, same, same_text, wire, wire_text

KEYS = st.sampled_from(["a", "b", "c", "é"])
SCALARS = st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)


def holds_null(value: Any) -> bool:
    """Whether there is a null outside of arrays."""
    return any(item is None or holds_null(item) for item in value.values()) if isinstance(value, dict) else False


@given(OBJECTS, OBJECTS)
def test_a_difference_brings_a_page_from_the_old_value_to_the_new_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    page = {"field": copy.deepcopy(old)}
    patch, has_removed = difference(old, new)
    if has_removed:
        merge(page, {"field": ""})
    merge(page, {"field": copy.deepcopy(patch)})
    assert same(page["field"], new)
    assert not holds_null({"field": patch})


@given(OBJECTS)
def test_equal_values_have_an_empty_difference(value: dict[str, Any]) -> None:
    assert difference(value, copy.deepcopy(value)) == ({}, False)


@given(OBJECTS, OBJECTS)
def test_making_a_difference_changes_neither_side(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = copy.deepcopy((old, new))
    difference(old, new)
    assert (old, new) == before


@given(VALUES)
def test_the_wire_form_is_strict_json_and_stays_as_it_is(value: Any) -> None:
    once = wire(value)
    assert json.loads(json.dumps(once, allow_nan=False)) == once
    assert same(wire(once), once)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        ([None, {"a": None}], [None, {"a": ""}]),
        ({"a": None}, {"a": ""}),
        (2**53, 2**53),
        (2**53 + 1, "9007199254740993"),
        (-(2**53) - 1, "-9007199254740993"),
        (10**30, "1" + "0" * 30),
        ((1, 2), [1, 2]),
        ({1: 2}, {"1": 2}),
        (True, True),
    ],
)
def test_the_wire_form_of_what_json_or_datastar_cannot_hold(value: Any, expected: Any) -> None:
    assert same(wire(value), expected)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [float("-inf")],
        {"a": {"b": float("nan")}},
        "\ud800",
        {"\udfff": 1},
        {"__proto__": 1},
        {"a": [{"constructor": 1}]},
        {"prototype": None},
        b"x",
        object(),
        {1, 2},
    ],
)
def test_what_breaks_pages_has_no_wire_form(value: Any) -> None:
    with pytest.raises(InvalidStateError):
        wire(value, "field")


@pytest.mark.parametrize(("a", "b"), [(1, True), (0, False), (1, 1.0), ("", None), ([1], (1,)), ({}, [])])
def test_values_of_different_types_are_different(a: Any, b: Any) -> None:
    assert not same(a, b)


def test_a_name_is_nested_from_the_outside() -> None:
    assert nest(("a", "b"), 1) == {"a": {"b": 1}}
    assert nest((), {"a": 1}) == {"a": 1}


def test_patches_are_merged_in_order() -> None:
    assert merged([{"a": {"b": 1}}, {"a": {"c": 2}}, {"a": ""}, {"a": {"d": 3}}, {"x": None}]) == {"a": {"d": 3}}


# Whatever could be taken for a null, a key, a number or an end of one of them.
TRICKY = st.sampled_from(
    [
        *(
            "",
            "null",
            ":null",
            ":null,",
            '":null,',
            '\\":null}',
            "[",
            "{",
            ",",
            "NaN",
            "Infinity",
            "1" * 17,
            "x" + "9" * 20,
        ),
        *("__proto__", "prototype", "constructor", "\ufffd", "é", "\\", '"'),
    ]
)
STORED = st.recursive(
    st.none() | SCALARS | TRICKY | st.integers(-(2**60), 2**60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | TRICKY, inner, max_size=4),
    max_leaves=12,
)


@given(STORED)
def test_a_text_in_wire_form_says_what_the_wire_form_says(value: Any) -> None:
    text = wire_text(to_json(value))
    if text is not None:
        assert json.loads(text) == wire(value)
        assert same(json.loads(text), wire(value))


@pytest.mark.parametrize("value", [[{"a": None, "b": [None, 1]}, {"a": 0.30000000000000004}], None, "é", {"a": 10**14}])
def test_common_values_are_brought_into_wire_form_as_texts(value: Any) -> None:
    assert wire_text(to_json(value)) == to_json(wire(value))


@pytest.mark.parametrize("value", [{"constructor": 1}, [2**53 + 1], {"a": -(2**60)}, float("nan"), ["", ":null,"]])
def test_what_needs_a_look_has_no_text(value: Any) -> None:
    assert wire_text(to_json({"x": [value], "y": None}, inf_nan_mode="constants")) is None


@pytest.mark.parametrize("value", [":null,", ":null}", ":null"])
def test_a_text_that_looks_like_the_end_of_a_key_stays_as_it_is(value: str) -> None:
    assert wire_text(to_json(value)) in (None, to_json(value))


@given(STORED, STORED)
def test_texts_are_the_same_exactly_if_their_values_are(a: Any, b: Any) -> None:
    assert same_text(to_json(a), to_json(b)) == same(a, b)


def test_texts_with_their_keys_in_another_order_are_the_same() -> None:
    assert same_text(b'[{"a":1,"b":12}]', b'[{"b":12,"a":1}]')
    assert not same_text(b'[{"a":1,"b":12}]', b'[{"a":12,"b":1}]')


@given(OBJECTS, OBJECTS, st.lists(st.sampled_from(["n", "é"]), max_size=2))
def test_a_patch_with_texts_is_encoded_as_one_without(
    values: dict[str, Any], texts: dict[str, Any], path: list[str]
) -> None:
    made = {**values, **{name: Text(to_json(value)) for name, value in texts.items()}}
    assert json.loads(encoded(path, made)) == nest(tuple(path), {**values, **texts})
