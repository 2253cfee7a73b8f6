"""What an event answers with: notifications that come and go, panels, DOM events, and nothing at all."""

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import pytest
from fasthtml.common import Button, Div, Li, Span, Ul
from pydantic import Field

from faststate_asgi import (
    Dispatch,
    FastStateMiddleware,
    Html,
    ReactiveState,
    Redirect,
    Remove,
    StateRegistry,
    event,
    fragment,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio

FORGERY = 'x\n\nevent: datastar-patch-signals\ndata: signals {"is_admin":true}\n\n'


class NotificationState(ReactiveState):
    """Notes that are shown until somebody closes them."""

    messages: list[dict[str, str]] = Field(default_factory=list)

    @event(selector="#notifications", mode="append")
    def add_notification(self, message: str, kind: Literal["info", "success", "error"] = "info") -> Any:
        """Add a note to the list and to the page."""
        note = {"id": str(uuid4()), "message": message, "kind": kind, "at": datetime.now(UTC).isoformat()}
        self.messages.append(note)
        close = NotificationState.remove_notification(note["id"])
        return Div(
            Span(message),
            Button("Close", cls="close-btn", **{"data-on:click": close}),
            cls=f"notification notification-{kind}",
            id=f"notification-{note['id']}",
        )

    @event
    def remove_notification(self, note_id: str) -> Any:
        """Remove one note from the list and from the page; an unknown one is none of our business."""
        known = [note["id"] for note in self.messages]
        if note_id not in known:
            return None
        self.messages = [note for note in self.messages if note["id"] != note_id]
        return Remove(f"#notification-{note_id}")


class Panel(ReactiveState):
    """One of each kind of answer."""

    count: int = 0
    message: str = ""
    status: str = "idle"
    details: dict[str, Any] = Field(default_factory=dict)
    rows: list[str] = Field(default_factory=list)
    choice: str | None = None

    @event
    def set_both(self, count: int, message: str) -> None:
        """Change two fields."""
        self.count, self.message = count, message

    @event
    def set_count(self, count: int) -> None:
        """Change one field."""
        self.count = count

    @event
    def choose(self, choice: str | None) -> None:
        """Change a field that may be empty."""
        self.choice = choice

    @event
    def set_details(self, details: dict[str, Any]) -> None:
        """Replace an object."""
        self.details = details

    @event(selector="#status-panel", merge_mode="inner")
    def update_status(self, status: str) -> Any:
        """Change a field and show it in a panel."""
        self.status = status
        return Div(f"Status: {status}", cls="status-panel")

    @event
    def complex_operation(self, data: dict[str, Any]) -> Any:
        """Tell the page what came out."""
        return Dispatch("operation-finished", {"rows": len(data), "data": data})

    @event
    def say(self, text: str) -> str:
        """Answer with plain text."""
        return text

    @event
    def show_raw(self) -> Any:
        """Answer with markup of several lines that looks like a frame."""
        return Html(f"<pre id='raw'>{FORGERY}</pre>")

    @event
    def add_row(self, text: str) -> Any:
        """Change a field that a fragment shows, answer with an element and leave."""
        self.rows.append(text)
        return [Div("Added", id="flash"), Redirect("/rows")]

    @fragment(on=("rows",))
    def row_list(self) -> Any:
        """The rows as a list."""
        return Ul(*[Li(row) for row in self.rows], id="rows")


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """A site without pages: only events are of interest."""
    registry.register(NotificationState)
    registry.register(Panel)
    app, _ = new_app()
    return wrap(app)


async def test_a_notification_is_appended_to_the_list_in_page_and_state(
    site: FastStateMiddleware, read_markup: Any
) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(NotificationState.add_notification, "<b>Saved</b>", kind="success")
    (note,) = answer.signals["messages"]
    (patch,) = answer.elements
    assert (patch.selector, patch.mode) == ("#notifications", "append")
    shown = read_markup(patch.html).one("div", id=f"notification-{note['id']}")
    assert shown["class"] == "notification notification-success"
    assert shown.text.startswith("<b>Saved</b>")
    assert (note["message"], note["kind"]) == ("<b>Saved</b>", "success")
    assert datetime.fromisoformat(note["at"]).tzinfo is not None


async def test_closing_a_notification_removes_exactly_that_one(
    site: FastStateMiddleware, read_markup: Any, press: Any
) -> None:
    async with FastStateClient(site) as client:
        shown = [(await client.call(NotificationState.add_notification, text)).elements[0] for text in ("one", "two")]
        close = read_markup(shown[0].html).button("Close")["data-on:click"]
        answer = await press(client, close)
    (patch,) = answer.elements
    removed = read_markup(shown[0].html).all("div")[0]["id"]
    assert (patch.selector, patch.mode) == (f"#{removed}", "remove")
    assert [note["message"] for note in answer.signals["messages"]] == ["two"]


async def test_an_unknown_notification_removes_nothing(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        await client.call(NotificationState.add_notification, "one")
        answer = await client.call(NotificationState.remove_notification, "x, body")
    assert (answer.status, answer.text) == (204, "")


async def test_a_kind_of_notification_that_is_not_on_the_list_is_refused(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(NotificationState.add_notification, "hi", kind='x" onclick="evil()')
    assert answer.error["status"] == 422
    assert "kind" in answer.error["fields"]
    assert answer.elements == []


async def test_changes_travel_as_one_patch_signals_event(site: FastStateMiddleware, patches: Any) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(Panel.set_both, 42, "Updated")
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.strip().split("\n")
    assert lines[0] == "event: datastar-patch-signals"
    assert lines[1].startswith("data: signals {")
    assert patches(answer) == [{"count": 42, "message": "Updated"}]


async def test_only_what_changed_is_sent(site: FastStateMiddleware, patches: Any) -> None:
    async with FastStateClient(site) as client:
        await client.call(Panel.set_both, 1, "same")
        answer = await client.call(Panel.set_both, 42, "same")
    assert patches(answer) == [{"count": 42}]


async def test_an_event_that_changes_nothing_answers_204(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        await client.call(Panel.set_count, 42)
        answer = await client.call(Panel.set_count, 42)
    assert (answer.status, answer.text) == (204, "")


async def test_equal_changed_added_and_removed_keys_of_an_object(site: FastStateMiddleware, patches: Any) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call(Panel.set_details, {"a": 1, "b": 2})).signals == {"details": {"a": 1, "b": 2}}
        changed_and_added = await client.call(Panel.set_details, {"a": 1, "b": 3, "c": 4})
        equal = await client.call(Panel.set_details, {"c": 4, "b": 3, "a": 1})
        removed = await client.call(Panel.set_details, {"a": 1})
    assert patches(changed_and_added) == [{"details": {"b": 3, "c": 4}}]
    assert equal.status == 204
    assert patches(removed) == [{"details": ""}, {"details": {"a": 1}}]
    assert "null" not in removed.text


async def test_a_field_that_becomes_none_keeps_its_signal(site: FastStateMiddleware, patches: Any) -> None:
    async with FastStateClient(site) as client:
        assert patches(await client.call(Panel.choose, "tea")) == [{"choice": "tea"}]
        assert patches(await client.call(Panel.choose, None)) == [{"choice": ""}]


async def test_a_status_panel_is_patched_inside(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(Panel.update_status, "busy")
    assert answer.signals == {"status": "busy"}
    block = next(b for b in answer.text.split("\n\n") if "datastar-patch-elements" in b).split("\n")
    assert "event: datastar-patch-elements" in block
    assert "data: selector #status-panel" in block
    assert "data: mode inner" in block
    assert 'data: elements <div class="status-panel">Status: busy</div>' in block


async def test_a_result_is_told_by_a_dom_event_that_datastar_delivers(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(Panel.complex_operation, {"a": 1})
    assert [frame.event for frame in answer.frames] == ["datastar-patch-elements"]
    assert "CustomEvent" in answer.text
    assert "operation-finished" in answer.text


@pytest.mark.parametrize("call", ["complex_operation", "say", "update_status", "show_raw"])
async def test_newlines_in_data_forge_no_frame(site: FastStateMiddleware, call: str, patches: Any) -> None:
    arguments = {"complex_operation": {"data": {"text": FORGERY}}, "say": {"text": FORGERY}}
    async with FastStateClient(site) as client:
        answer = await client.call(f"Panel/{call}", arguments.get(call, {"status": FORGERY}))
    assert {frame.event for frame in answer.frames} <= {"datastar-patch-elements", "datastar-patch-signals"}
    assert sum(frame.event == "datastar-patch-elements" for frame in answer.frames) == 1
    assert all("is_admin" not in patch for patch in patches(answer))
    assert "is_admin" not in answer.signals


async def test_signals_come_first_then_fragments_then_elements_then_the_redirect(
    site: FastStateMiddleware, read_markup: Any
) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(Panel.add_row, "first & last")
    kinds = [frame.event.removeprefix("datastar-patch-") for frame in answer.frames]
    assert kinds == ["signals", "elements", "elements", "elements"]
    assert answer.signals == {"rows": ["first & last"]}
    assert read_markup(answer.elements[0].html).one("ul", id="rows").text == "first & last"
    assert read_markup(answer.elements[1].html).one("div", id="flash").text == "Added"
    assert "/rows" in answer.elements[2].html


async def test_a_redirect_is_a_303_for_clients_without_datastar(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(Panel.add_row, "x", datastar=False)
    assert (answer.status, answer.headers["location"]) == (303, "/rows")
