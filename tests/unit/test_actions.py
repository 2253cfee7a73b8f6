"""Actions: what they carry, and that no argument can become code."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faststate_asgi import ConfigurationError, ReactiveState, StateRegistry, event, js

REGISTRY = StateRegistry()


class Button(ReactiveState):
    """Has a required and an optional parameter."""

    size: int = 0

    @event
    def press(self, text: Any, size: int = 1) -> None:
        """Do nothing."""


REGISTRY.register(Button)


def payload_of(action: str) -> dict[str, Any]:
    start = action.index("{payload: ") + len("{payload: ")
    value, _ = json.JSONDecoder().raw_decode(action, start)
    return dict(value)


@given(st.text(max_size=40) | st.sampled_from(["', x:(alert(1)), y:'", "@post('/x')", "$size", "`${a}`", "</script>"]))
def test_an_argument_stays_text(text: str) -> None:
    action = Button.press(text)
    assert payload_of(action) == {"text": text}
    assert action.count("@") == 1
    code = action.replace("$_faststate.error", "").replace("$_faststate.live", "")
    assert not set(code) & set("$`<>&")


def test_every_action_carries_what_repetitions_need() -> None:
    action = Button.press("x")
    assert action.startswith("@post('/faststate/events/Button/press', {")
    for part in ("'Idempotency-Key': crypto.getRandomValues", "'FastState-Live'", "requestCancellation: 'disabled'"):
        assert part in action
    assert "$_faststate.error = ''" in action


def test_what_is_not_given_comes_from_the_page() -> None:
    assert '{payload: {"text": $text}' in Button.press()
    assert '{payload: {"text": $text, "size": $size}' in Button.press.from_signals()
    assert "contentType: 'form'" in Button.press.form()
    assert "payload" not in Button.press.form()


def test_an_expression_is_code_on_purpose() -> None:
    assert '"text": $a + 1' in Button.press(js("$a + 1"))
    assert '"text": {"a": [$b]}' in Button.press({"a": [js("$b")]})


def test_options_are_added() -> None:
    action = Button.press("x").options(retry="never", open_when_hidden=True, headers={"X-Own": "a'b"})
    assert 'retry: "never"' in action
    assert "openWhenHidden: true" in action
    assert '"X-Own": "a\\u0027b"' in action
    assert "Idempotency-Key" in action
    with pytest.raises(ConfigurationError, match="not a Datastar option"):
        Button.press("x").options(**{"a b": 1})


@pytest.mark.parametrize("arguments", [{"nothing": 1}, {"text": 1}])
def test_an_argument_that_the_event_does_not_take_is_an_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="press"):
        Button.press("x", **arguments)


def test_an_action_is_escaped_where_markup_is_written() -> None:
    assert '"' not in Button.press("x").__html__()


class Order(ReactiveState):
    """Has its event at a path with parameters, and one with an injected parameter first."""

    size: int = 0

    @event("/orders/{order_id:int}/lines/{line}")
    def cancel(self, order_id: int, line: str, reason: str = "") -> None:
        """Do nothing."""

    @event
    def note(self, req: Any, text: Any) -> None:
        """Do nothing."""


REGISTRY.register(Order)


def test_parameters_of_a_path_stand_in_the_address() -> None:
    action = Order.cancel(5, "a b/'c'", reason="late")
    assert action.startswith(
        '@post(\'/faststate/events/orders/5/lines/a%20b%2F%27c%27\', {payload: {"reason": "late"},'
    )


def test_parameters_of_a_path_may_come_from_the_page() -> None:
    action = Order.cancel(js("$row.id"))  # type: ignore[call-arg]  # the line comes from the page
    address = "'/faststate/events/orders/' + encodeURIComponent($row.id) + '/lines/' + encodeURIComponent($line) + ''"
    assert action.startswith(f"@post({address}, {{payload: {{}},")


def test_what_is_injected_takes_no_place_among_the_arguments() -> None:
    assert payload_of(Order.note("x")) == {"text": "x"}  # type: ignore[call-arg]
    assert payload_of(Order.note(None, "x")) == {"text": "x"}
    with pytest.raises(TypeError, match="note"):
        Order.note(None, "x", "y")  # type: ignore[call-arg]  # that is the point
