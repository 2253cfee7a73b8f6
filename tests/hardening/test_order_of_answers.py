"""Answers tell a page which version they bring and to what they answer; the first frames of a stream which one they hold.

What a page does with that is in tests/browser/test_overtaking_answers.py.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import Field

from faststate_asgi import (
    Bound,
    FastStateMiddleware,
    Html,
    Live,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    Writable,
    event,
    fragment,
)
from faststate_asgi.testing import FastStateClient, Frame
from tests.hardening.wrapping import SECRET

pytestmark = pytest.mark.anyio

CUT_OFF = {"FastState-Live": "", "FastState-After": "7"}


class Stock(ReactiveState):
    """How many there are."""

    left: int = 9


class Board(ReactiveState):
    """What everybody may change."""

    count: int = 0
    note: Bound[str] = ""
    words: dict[str, str] = Field(default_factory=dict)

    @event
    def add(self) -> None:
        """Count."""
        self.count += 1

    @event
    def add_and_say(self) -> list[Any]:
        """Count, and show something besides."""
        self.count += 1
        return [Html("<b id='said'>said</b>")]

    @event
    def put(self, key: str) -> None:
        """Add a key."""
        self.words = {**self.words, key: "x"}

    @event
    def drop(self, key: str) -> None:
        """Remove a key."""
        self.words = {name: value for name, value in self.words.items() if name != key}

    @event
    def sell(self, stock: Writable[Stock]) -> None:
        """Change two states."""
        self.count += 1
        stock.left -= 1

    @event
    async def climb(self) -> AsyncIterator[None]:
        """Count to three in steps."""
        for _ in range(3):
            self.count += 1
            yield

    @event
    def clear(self) -> None:
        """Delete all."""
        self.delete()

    @fragment(on=("count",))
    def shelf(self) -> Html:
        """Render the count."""
        return Html(f'<p id="shelf">{self.count}</p>')


class Item(ReactiveState):
    """One of many."""

    pieces: int = 0

    @event
    def take(self) -> None:
        """Count."""
        self.pieces += 1


@pytest.fixture
async def client() -> AsyncIterator[FastStateClient]:
    """One browser at a site."""
    registry = StateRegistry()
    for cls in (Board, Stock):
        registry.register(cls, StateConfig(scope=StateScope.GLOBAL))
    registry.register(Item, StateConfig(scope=StateScope.RECORD, public=True, namespace="item"))

    async def page(scope: Any, receive: Any, send: Any) -> None:
        body = str(Live(await Board.aget(scope))).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": body})

    app = FastStateMiddleware(page, registry=registry, secret_key=SECRET, store="memory:", debug=True)
    async with FastStateClient(app) as client:
        await client.get("/")
        yield client


def order_in(frames: list[Frame]) -> list[str | None]:
    """Return what each frame says of its place, None for nothing."""
    return [frame.data.get("order") for frame in frames]


async def test_each_frame_of_an_answer_tells_label_number_and_what_the_page_had(client: FastStateClient) -> None:
    first = await client.call(Board.add, headers=CUT_OFF)
    assert [frame.event for frame in first.frames] == ["datastar-patch-signals", "datastar-patch-elements"]
    assert order_in(first.frames) == ["Board 1 7", "Board 1 7 shelf"]
    await client.call(Board.put, "a")
    dropped = await client.call(Board.drop, "a", headers=CUT_OFF)
    assert [frame.patch for frame in dropped.frames] == [{"words": ""}, {"words": {}}]
    assert order_in(dropped.frames) == ["Board 3 7", "Board 3 7"]


async def test_what_an_event_returns_has_no_place(client: FastStateClient) -> None:
    answer = await client.call(Board.add_and_say, headers=CUT_OFF)
    assert order_in(answer.frames) == ["Board 1 7", "Board 1 7 shelf", None]


async def test_several_states_each_have_their_place(client: FastStateClient) -> None:
    await client.call(Board.add)
    answer = await client.call(Board.sell, headers=CUT_OFF)
    assert sorted(place or "" for place in order_in(answer.frames)) == ["Board 2 7", "Board 2 7 shelf", "Stock 1 7"]
    half = await client.call(Board.sell, headers={**CUT_OFF, "FastState-Live": "Board"})
    assert order_in(half.frames) == ["Stock 2 7"]


async def test_a_record_is_named_by_its_label(client: FastStateClient) -> None:
    answer = await client.call("Item/take", ids={"record_id": "a b"}, headers=CUT_OFF)
    assert order_in(answer.frames) == ["Item:a%20b 1 7"]


async def test_each_step_of_a_generator_has_its_place(client: FastStateClient) -> None:
    answer = await client.call(Board.climb, headers=CUT_OFF)
    places = [place for place in order_in(answer.frames) if place and "shelf" not in place]
    assert places == ["Board 1 7", "Board 2 7", "Board 3 7"]


@pytest.mark.parametrize("event_name", ["Board/add", "Board/climb"])
async def test_a_repeated_request_gets_the_places_of_its_time(client: FastStateClient, event_name: str) -> None:
    first = await client.call(event_name, key="once", headers=CUT_OFF)
    await client.call(Board.add)
    again = await client.call(event_name, key="once", headers=CUT_OFF)
    assert first.frames
    assert again.body == first.body


async def test_a_setter_has_its_place_and_so_has_its_note(client: FastStateClient) -> None:
    answer = await client.call(Board.set_note, "hi", headers={**CUT_OFF, "FastState-Typed": "tab-1"})  # type: ignore[attr-defined]  # made by Bound
    assert [frame.patch for frame in answer.frames] == [{"note": "hi"}, {}]
    assert order_in(answer.frames) == ["Board 1 7", "Board 1 7"]
    assert "typed" in answer.frames[1].data


async def test_a_deletion_has_the_number_nought(client: FastStateClient) -> None:
    await client.call(Board.add)
    answer = await client.call(Board.clear, headers=CUT_OFF)
    assert {place.rsplit(" ", 1)[0] for place in order_in(answer.frames) if place and "shelf" in place} <= {"Board 0 7"}
    assert order_in(answer.frames)[0] == "Board 0 7"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"FastState-Live": "undefined", "FastState-After": "undefined"},
        {"FastState-Live": "undefined", "FastState-After": "7"},
        {"FastState-Live": ""},
        *(
            {"FastState-Live": "", "FastState-After": text}
            for text in ("", "undefined", "-1", "1e3", "7 Stock", "9" * 16)
        ),
    ],
)
async def test_a_page_that_does_not_put_answers_in_order_is_told_nothing(
    client: FastStateClient, headers: dict[str, str]
) -> None:
    """Whoever got a line of their choice into a frame could write into that page."""
    answer = await client.call(Board.add, headers=headers)
    assert order_in(answer.frames) == [None, None]


async def test_a_state_that_the_stream_brings_is_left_out(client: FastStateClient) -> None:
    covered = {"FastState-Live": "Board", "FastState-After": "7"}
    assert (await client.call(Board.add, headers=covered)).status == 204
    noted = await client.call(Board.set_note, "hi", headers={**covered, "FastState-Typed": "tab-1"})  # type: ignore[attr-defined]  # made by Bound
    assert noted.status == 204


async def test_the_first_frames_of_a_stream_tell_what_they_hold(client: FastStateClient) -> None:
    await client.call(Board.put, "a")
    tab = {"FastState-Tab": "tab"}
    async with client.stream("Board", "Item:a%20b", headers=tab) as stream:
        await stream.next()
        await stream.until(lambda signals: "item" in signals)
        held = [frame.data.get("holds") for frame in stream.frames]
        assert held[:2] == ["Board=1 Item:a%20b=0"] * 2
        last_id = stream.last_id
        await client.call(Board.put, "b")
        await stream.until(lambda signals: "b" in signals["words"])
        assert "holds" not in stream.frames[-1].data
        later_id = stream.last_id
    for known, wanted in ((last_id, 2), (later_id, 1)):
        async with client.stream("Board", "Item:a%20b", headers=tab, last_event_id=known) as stream:
            await stream.next()
            assert [frame.data.get("holds") for frame in stream.frames][:wanted] == ["Board=2 Item:a%20b=0"] * len(
                stream.frames[:wanted]
            )
    async with client.stream("Board") as stream:
        await stream.next()
        assert all("holds" not in frame.data for frame in stream.frames)


async def test_every_page_with_a_stream_names_its_tab_and_every_action_says_what_the_page_had(
    client: FastStateClient,
) -> None:
    page = (await client.get("/")).text
    assert "FastState-Tab" in page
    assert "datastar-fetch" in page
    assert "'FastState-After': window.faststate?.after()" in Board.add()
