"""The bytes of frames: one frame each, whatever is in it, and inert in expressions."""

import html
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faststate_asgi import InvalidStateError, frames
from faststate_asgi.testing.sse import parse_frames

TEXT = st.text(max_size=40) | st.sampled_from(["\r\n\r\nevent: x", "\u2028\x0b\x1c\x85", "@post('/x')", "$a${b}`"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXT, JSON, max_size=3))
def test_signals_are_one_frame_of_strict_json(patch: dict[str, Any]) -> None:
    (frame,) = parse_frames(frames.signals(patch))
    assert frame.event == "datastar-patch-signals"
    assert frame.patch == patch


@given(TEXT)
def test_elements_are_one_frame_and_keep_their_text(markup: str) -> None:
    (frame,) = parse_frames(frames.elements(markup or "x", selector="#a", mode="inner"))
    assert (frame.event, frame.selector, frame.mode) == ("datastar-patch-elements", "#a", "inner")
    expected = re.sub("\r\n|\r", "\n", markup or "x").replace("\x00", "\ufffd")
    assert frame.html == expected


@given(TEXT, JSON)
def test_scripts_are_one_inert_element(name: str, detail: Any) -> None:
    (frame,) = parse_frames(frames.dispatch(name, detail))
    assert frame.html.count("<") == 2
    assert "@" not in frame.html
    assert "$" not in frame.html


@given(JSON)
def test_an_expression_is_the_same_value_and_no_code(value: Any) -> None:
    text = frames.expression(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&'@$`")
    assert text.isascii()
    assert json.loads(html.unescape(frames.attribute(text))) == value


@pytest.mark.parametrize("selector", ["#a\n", "#a\r\ndata: x", "#\x00", "a\n\nevent: x"])
def test_a_selector_cannot_begin_another_line(selector: str) -> None:
    with pytest.raises(ValueError, match="selector"):
        frames.elements("x", selector=selector)


@pytest.mark.parametrize("mode", ["", "morph", "Outer", "outer\n"])
def test_an_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="mode"):
        frames.elements("x", mode=mode)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_is_not_json_is_no_expression(value: Any) -> None:
    with pytest.raises(InvalidStateError):
        frames.expression(value)


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ('<p id="a">x</p>', {"id": "a"}),
        ("<p id=a hidden>x", {"id": "a", "hidden": None}),
        (' \n<!-- <p id="c"> --><div\nid="b" >', {"id": "b"}),
        ("<p data-x='a>b' id=\"a\">", {"data-x": "a>b", "id": "a"}),
        ("text", None),
        ("", None),
        ("a < b", None),
    ],
)
def test_the_first_element_is_found(markup: str, expected: Any) -> None:
    assert frames.root_attributes(markup) == expected


@pytest.mark.parametrize(
    ("markup", "count"),
    [
        ("", 0),
        ("only text", 0),
        ("<b id=a></b>", 1),
        ("<b id=a></b><b id=b></b>", 2),
        ("<b id=a></b> text <!-- <i> --> ", 1),
        ("<div id=a><div></div><div></div></div>", 1),
        ("<div id=a><div></div></div><p>", 2),
        ("<img id=a>", 1),
        ("<img id=a><img id=b>", 2),
        ("<ul id=a><li>one<li>two</ul>", 1),
        ("<li id=a><ul><li>one<li>two</ul></li>", 1),
        ("<div id=a title='</div><b>'><br><input></div>", 1),
        ("<svg id=a/><!doctype html>", 1),
        ("<div id=a><script>'</div><b>'</script></div>", 1),
        ("<div id=a>never closed <b>x</b>", 1),
        ("</div><p id=a></p>", 1),
    ],
)
def test_elements_beside_each_other_are_counted(markup: str, count: int) -> None:
    assert frames.root_count(markup) == count
