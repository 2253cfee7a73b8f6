"""A tab's own requests for one field: the newest wins at every process, and its stream says what it includes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from faststate_asgi import Bound, FastStateMiddleware, Live, ReactiveState, StateConfig, StateRegistry, StateScope
from faststate_asgi.testing import FastStateClient, Frame, LiveStream
from tests.apps.shared_clients import STORES, store_of
from tests.hardening.wrapping import SECRET

pytestmark = pytest.mark.anyio


class Note(ReactiveState):
    """What everybody may write."""

    text: Bound[str] = ""
    size: Bound[int] = 0


class Remark(ReactiveState):
    """One of many."""

    text: Bound[str] = ""


def make_app(store: str) -> FastStateMiddleware:
    """Return a site on a store, as one process of several."""
    registry = StateRegistry()
    registry.register(Note, StateConfig(scope=StateScope.GLOBAL))
    registry.register(Remark, StateConfig(scope=StateScope.RECORD, public=True, namespace="remark"))

    async def page(scope: Any, receive: Any, send: Any) -> None:
        body = str(Live(await Note.aget(scope))).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": body})

    return FastStateMiddleware(page, registry=registry, secret_key=SECRET, store=store, debug=True)


@pytest.fixture(params=["memory", *STORES])
async def pair(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[FastStateClient, FastStateClient]]:
    """One browser at two processes on one store; in memory, which nobody shares, both are the same one."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            here = await stack.enter_async_context(FastStateClient(make_app("memory:")))
            there = here
        else:
            store = store_of(request, tmp_path)
            here, there = [await stack.enter_async_context(FastStateClient(make_app(store))) for _ in range(2)]
        await here.get("/")
        there.cookies = here.cookies
        yield here, there


@pytest.fixture
async def client() -> AsyncIterator[FastStateClient]:
    """One browser at one process."""
    async with FastStateClient(make_app("memory:")) as client:
        yield client


def typed(tab: str, number: object, *, live: str | None = None) -> dict[str, str]:
    """Return the headers of a setter's request."""
    return {"FastState-Typed": f"{tab}-{number}", **({} if live is None else {"FastState-Live": live})}


async def note_of(stream: LiveStream) -> list[str]:
    """Return the words of the next note in a stream."""
    while True:
        frame = await stream.next()
        if "typed" in frame.data:
            return frame.data["typed"].split(" ")


def tag_in(frames: list[Frame]) -> str:
    """Return what a stream's first frames call its tab."""
    return next(frame.data["tab"] for frame in frames if "tab" in frame.data)


async def test_a_late_request_of_the_same_tab_and_field_is_dropped_at_every_process(
    pair: tuple[FastStateClient, FastStateClient],
) -> None:
    here, there = pair
    assert (await here.call(Note.set_text, "ab", headers=typed("tab", 2))).signals == {"text": "ab"}
    assert (await there.call(Note.set_text, "a", headers=typed("tab", 1))).status == 204
    assert (await there.call(Note.set_text, "abc", headers=typed("tab", 3))).signals == {"text": "abc"}
    # Another field and another tab have an order of their own, and so has a client that does not number.
    assert (await here.call(Note.set_size, 7, headers=typed("tab", 1))).signals == {"size": 7}
    assert (await there.call(Note.set_text, "other", headers=typed("tab2", 1))).signals == {"text": "other"}
    assert (await here.call(Note.set_text, "plain")).signals == {"text": "plain"}


async def test_the_newest_of_fifty_requests_in_any_order_wins(
    pair: tuple[FastStateClient, FastStateClient],
) -> None:
    numbers = [(7 * number) % 50 + 1 for number in range(50)]
    await asyncio.gather(
        *(
            pair[number % 2].call(Note.set_text, "x" * number, headers=typed("tab", number), key=f"k{number}")
            for number in numbers
        )
    )
    async with pair[1].stream("Note") as stream:
        await stream.until(lambda signals: signals["text"] == "x" * 50)


async def test_a_stream_says_which_request_its_values_include(pair: tuple[FastStateClient, FastStateClient]) -> None:
    here, there = pair
    async with there.stream("Note", headers={"FastState-Tab": "tab"}) as stream:
        await stream.next()
        tag = tag_in(stream.frames)
        assert "tab" not in tag
        for number in (1, 2):
            await here.call(Note.set_text, f"v{number}", headers=typed("tab", number, live="Note"))
            assert await note_of(stream) == ["text", tag, str(number)]
            assert stream.signals["text"] == f"v{number}"


async def test_a_request_that_changes_nothing_is_noted_too(client: FastStateClient) -> None:
    async with client.stream("Note", headers={"FastState-Tab": "tab"}) as stream:
        await stream.next()
        answer = await client.call(Note.set_text, "", headers=typed("tab", 5, live="Note"))
        assert answer.status == 204
        assert await note_of(stream) == ["text", tag_in(stream.frames), "5"]


async def test_an_answer_to_a_page_without_a_stream_carries_the_note(client: FastStateClient) -> None:
    answer = await client.call(Note.set_text, "new", headers=typed("tab", 5))
    assert [frame.patch for frame in answer.frames] == [{"text": "new"}, {}]
    assert answer.frames[1].data["typed"].startswith("text ")


async def test_a_page_that_guards_nothing_is_not_sent_what_it_has_just_sent(client: FastStateClient) -> None:
    own = {"FastState-Typed": "1764086400123.4-17.5-own"}
    answer = await client.call(Note.set_text, "mine", headers=own)
    assert answer.signals == {}
    # What the server made of it is another matter.
    assert (await client.call("Note/set_size", {"size": "7"}, headers=own)).signals == {}
    late = {"FastState-Typed": "1764086400123.4-17.4-own"}
    assert (await client.call(Note.set_text, "older", headers=late)).status == 204
    async with client.stream("Note") as stream:
        await stream.until(lambda signals: signals["text"] == "mine")


async def test_a_stranger_who_knows_a_tag_cannot_silence_that_tab(client: FastStateClient) -> None:
    """Whoever could number requests in another tab's name could make the server drop what that tab sends."""
    async with client.stream("Note", headers={"FastState-Tab": "tab"}) as stream:
        await stream.next()
        tag = tag_in(stream.frames)
        stranger = client.another()
        await stranger.call(Note.set_text, "mean", headers=typed(tag, 999_999))
        note = await note_of(stream)
        assert note[1] != tag
        await client.call(Note.set_text, "fine", headers=typed("tab", 1))
        await stream.until(lambda signals: signals["text"] == "fine")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "-",
        "tab",
        "tab-",
        "-1",
        "tab-x",
        "tab--1",
        "tab-1e9",
        "tab-nan",
        "tab-1\udce4",
        "a" * 65 + "-1",
        "tab-" + "9" * 17,
    ],
)
async def test_a_number_that_is_none_is_ignored(client: FastStateClient, header: str) -> None:
    value = header.encode("utf-8", "surrogateescape").decode("latin-1")
    for text in ("one", "two"):
        answer = await client.call(Note.set_text, text, headers={"FastState-Typed": value})
        assert answer.signals == {"text": text}
        assert all("typed" not in frame.data for frame in answer.frames)


async def test_only_setters_are_kept_in_order(client: FastStateClient) -> None:
    # A record's own id is part of the name, so two records do not overtake each other.
    for record, number in (("1", 5), ("2", 4)):
        answer = await client.call(
            "Remark/set_text", {"text": record}, headers=typed("tab", number), ids={"record_id": record}
        )
        assert answer.frames[1].data["typed"].split(" ")[0] == f"remark.{record}.text"


def test_actions_of_setters_number_their_requests_and_others_do_not() -> None:
    assert "window.faststate?.typed(el, 'text')" in Note.set_text()
    assert "window.faststate?.typed(el, 'text')" in Note.setter("text")
    assert "window.faststate?.order()" in Note.set_text("fixed")
    assert "typed(" not in Note.set_text("fixed")
