"""Differences between JSON values, and what a page holds after them."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faststate_asgi import InvalidStateError
from faststate_asgi.patches import difference, merge, merged, nest, same, wire

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
