"""What a handler may return, and what the asking page gets for it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from datastar_py import ServerSentEventGenerator
from fasthtml.common import Div
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from faststate_asgi import BadRequestError, Dispatch, Elements, Html, ReactiveState, Redirect, Remove, Script, event
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
XSS = "<img src=x onerror=alert(1)> @post('/x') $a"
ANSWERS: dict[str, Any] = {}


class Speaker(ReactiveState):
    """Returns what the test has put down."""

    count: int = 0

    @event
    def say(self, what: str) -> Any:
        self.count += 1
        return ANSWERS[what]

    @event(selector="#box", mode="append")
    def say_in_box(self, what: str) -> Any:
        return ANSWERS[what]

    @event(selector="#box", mode="remove")
    def remove_box(self) -> str:
        return ""

    @event
    def fail(self, what: str) -> None:
        if ANSWERS[what] is not None:
            raise ANSWERS[what]

    @event
    def quiet(self) -> None:
        """Change nothing."""

    @event
    def steps(self) -> Iterator[Any]:
        self.count = 1
        yield "one"
        self.count = 2
        yield [Html('<p id="a">two</p>'), Dispatch("done")]
        self.count = 3

    @event
    async def async_steps(self) -> AsyncIterator[Any]:
        yield None
        self.count = 5
        yield Redirect("/done")


@pytest.fixture
def app() -> Any:
    return wrapped((Speaker, GLOBAL))


async def said(app: Any, value: Any, *, event_name: str = "say", datastar: bool = True) -> Any:
    ANSWERS["it"] = value
    async with FastStateClient(app) as client:
        return await client.call(f"Speaker/{event_name}", {"what": "it"}, datastar=datastar)


async def test_none_sends_only_what_changed(app: Any) -> None:
    answer = await said(app, None)
    assert answer.signals == {"count": 1}
    assert len(answer.frames) == 1


async def test_an_event_that_changes_nothing_has_no_content(app: Any) -> None:
    async with FastStateClient(app) as client:
        answer = await client.call("Speaker/quiet")
    assert (answer.status, answer.body) == (204, b"")


async def test_plain_text_is_escaped_and_goes_to_updates(app: Any) -> None:
    (element,) = (await said(app, XSS)).elements
    assert element.html == "&lt;img src=x onerror=alert(1)&gt; @post(&#x27;/x&#x27;) $a"
    assert (element.selector, element.mode) == ("#updates", "inner")


async def test_markup_with_an_id_finds_its_own_place(app: Any) -> None:
    (element,) = (await said(app, Html('<p id="a">\n<b>x</b>\r\n</p>'))).elements
    assert element.html == '<p id="a">\n<b>x</b>\n</p>'
    assert (element.selector, element.mode) == (None, "outer")


async def test_markup_without_an_id_goes_to_updates(app: Any) -> None:
    (element,) = (await said(app, Html("<p>x</p>"))).elements
    assert (element.selector, element.mode) == ("#updates", "inner")


async def test_components_of_fasthtml_are_markup(app: Any) -> None:
    (element,) = (await said(app, Div(XSS, id="a"))).elements
    assert "<img" not in element.html
    assert 'id="a"' in element.html


async def test_the_events_own_target_is_used(app: Any) -> None:
    for value in ("x", Html("<p>x</p>"), Elements("x")):
        (element,) = (await said(app, value, event_name="say_in_box")).elements
        assert (element.selector, element.mode) == ("#box", "append")
    (element,) = (await said(app, Elements("x", "#else", "morph"), event_name="say_in_box")).elements
    assert (element.selector, element.mode) == ("#else", "inner")


async def test_remove_takes_elements_away(app: Any) -> None:
    (element,) = (await said(app, Remove("#gone"))).elements
    assert (element.selector, element.mode, element.html) == ("#gone", "remove", "")
    async with FastStateClient(app) as client:
        (element,) = (await client.call("Speaker/remove_box")).elements
    assert (element.selector, element.mode) == ("#box", "remove")


async def test_several_answers_come_in_order_and_scripts_last(app: Any) -> None:
    answer = await said(app, [Redirect("/next"), Html('<p id="a"></p>'), (Remove("#b"), None), Script("f()")])
    assert answer.frames[0].patch == {"count": 1}
    first, second, *last = answer.elements
    assert first.html == '<p id="a"></p>'
    assert second.mode == "remove"
    assert ["/next" in last[0].html, "f()" in last[1].html] == [True, True]


async def test_a_redirect_follows_the_client(app: Any) -> None:
    answer = await said(app, Redirect("/done?a=1&b=ü"))
    assert "window.location.assign" in answer.elements[-1].html
    assert "<script" not in answer.text
    plain = await said(app, Redirect("/done?a=1&b=ü"), datastar=False)
    assert plain.status == 303
    assert plain.headers["location"] == "/done?a=1&b=%C3%BC"


async def test_another_site_needs_a_word(app: Any) -> None:
    assert Redirect("https://example.com/x", external=True).url == "https://example.com/x"
    for url in (
        "https://example.com",
        "//example.com",
        "/\\example.com",
        "\\\\example.com",
        "javascript:alert(1)",
        "\tjavascript:alert(1)",
        "/a\r\nset-cookie: x=y",
        "///example.com",
        "data:text/html,x",
        "",
        "http:example.com",
        "ja\nvascript:x",
    ):
        with pytest.raises(ValueError, match="leaves this site"):
            Redirect(url)
    for url in ("javascript:alert(1)", "ftp://example.com", "//example.com", "/\\example.com", "data:,x"):
        with pytest.raises(ValueError, match="leaves this site"):
            Redirect(url, external=True)


async def test_a_custom_event_carries_its_detail_inert(app: Any) -> None:
    answer = await said(app, Dispatch("saved", {"text": XSS, "none": None, "big": 2**60}))
    html = answer.elements[-1].html
    for code in ("<img", "@post", "$a"):
        assert code not in html
    assert "saved" in html


async def test_the_events_of_datastar_py_pass(app: Any) -> None:
    answer = await said(app, ServerSentEventGenerator.patch_signals({"other": 1}))
    assert answer.signals == {"count": 1, "other": 1}


async def test_a_response_is_sent_as_it_is(app: Any) -> None:
    answer = await said(app, JSONResponse({"a": 1}, status_code=201, headers={"x-own": "yes"}))
    assert (answer.status, answer.json(), answer.headers["x-own"]) == (201, {"a": 1}, "yes")
    answer = await said(app, RedirectResponse("/x"))
    assert (answer.status, answer.headers["location"]) == (307, "/x")
    answer = await said(app, Response(status_code=204))
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize("is_file", [True, False])
async def test_a_file_or_a_stream_is_sent_as_it_is_and_once(app: Any, tmp_path: Path, is_file: bool) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"a,b\n" * 20_000)
    ran: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"a,b\n" * 5_000

    after = BackgroundTask(ran.append, 1)
    response: Response = FileResponse(path, background=after)
    if not is_file:
        response = StreamingResponse(parts(), media_type="text/csv", background=after)
    ANSWERS["it"] = response
    async with FastStateClient(app) as client:
        first = await client.call("Speaker/say", {"what": "it"}, key="k")
        again = await client.call("Speaker/say", {"what": "it"}, key="k")
        count = (await app.faststate.get(Speaker)).count
    assert (first.status, first.body) == (200, b"a,b\n" * 20_000)
    assert first.headers["content-type"].startswith("text/csv")
    assert (again.status, again.body, count, ran) == (204, b"", 1, [1])


async def test_the_status_of_starlettes_own_exception_is_kept(app: Any) -> None:
    ANSWERS["it"] = HTTPException(418, "No coffee", headers={"x-own": "yes"})
    async with FastStateClient(app) as client:
        plain = await client.call("Speaker/fail", {"what": "it"}, datastar=False)
        page = await client.call("Speaker/fail", {"what": "it"})
    assert (plain.status, plain.json()["detail"], plain.headers["x-own"]) == (418, "No coffee", "yes")
    assert page.error == {
        "status": 418,
        "title": "I'm a Teapot",
        "detail": "No coffee",
        "event": "Speaker/fail",
        "fields": {},
    }


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_ends_with_its_head(app: Any, status: int) -> None:
    """A body would be read as the beginning of the connection's next answer."""
    ANSWERS["it"] = HTTPException(status, "nothing")
    async with FastStateClient(app) as client:
        raised = await client.call("Speaker/fail", {"what": "it"}, datastar=False)
    returned = await said(app, Response("text", status_code=status), datastar=False)
    for answer in (raised, returned):
        assert (answer.status, answer.body) == (status, b"")
        assert "content-length" not in answer.headers


@pytest.mark.parametrize(
    "unsendable",
    [
        HTTPException(100, "too early"),
        HTTPException(999, "too late"),
        HTTPException(418, "split", headers={"x-own": "a\r\nset-cookie: q=1"}),
        BadRequestError("split", headers={"x-own": "a\r\nset-cookie: q=1"}),
        BadRequestError("split", headers={"x-own: 1\r\nset-cookie": "q=1"}),
        BadRequestError("not latin", headers={"x-own": "\u20ac"}),
        Response("early", status_code=102),
        Response("late", status_code=999),
        Response("split", headers={"x-own": "a\nset-cookie: q=1"}),
        Response("named", headers={"x own": "a"}),
    ],
)
async def test_what_no_server_can_send_is_a_failure_that_the_log_explains(
    app: Any, unsendable: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ANSWERS["it"] = unsendable
    name = "say" if isinstance(unsendable, Response) else "fail"
    async with FastStateClient(app) as client:
        for is_datastar in (True, False):
            answer = await client.call(f"Speaker/{name}", {"what": "it"}, datastar=is_datastar)
            assert answer.error["status"] == 500
            assert answer.status == (200 if is_datastar else 500)
            assert {"set-cookie", "x-own"}.isdisjoint(answer.headers)
        assert (await app.faststate.get(Speaker)).version == "0"
    assert "Speaker/" in caplog.text
    assert "from 200 to 599" in caplog.text or "take it out" in caplog.text or "latin-1" in caplog.text


@pytest.mark.parametrize("status", [404, 409, 418])
async def test_a_handlers_refusal_is_remembered_unless_another_try_may_help(app: Any, status: int) -> None:
    ANSWERS["it"] = HTTPException(status)
    async with FastStateClient(app) as client:
        await client.call("Speaker/fail", {"what": "it"}, key="k")
        ANSWERS["it"] = None
        again = await client.call("Speaker/fail", {"what": "it"}, key="k")
    assert again.error is not None
    assert again.error["status"] == status


@pytest.mark.parametrize(
    "value",
    [
        5,
        object(),
        {"a": 1},
        b"x",
        Elements("x", mode="nonsense"),
        Elements("x", "#a\n\nevent: x"),
        Remove("#a\r"),
        Elements(object()),
        Dispatch("x", float("nan")),
        Dispatch("x", {"__proto__": 1}),
    ],
)
async def test_what_no_page_can_show_fails_the_event(app: Any, value: Any) -> None:
    ANSWERS["it"] = value
    async with FastStateClient(app) as client:
        answer = await client.call("Speaker/say", {"what": "it"})
        assert answer.error is not None
        assert answer.error["status"] == 500
        assert (await app.faststate.get(Speaker)).version == "0"


async def test_a_generator_sends_each_step(app: Any) -> None:
    async with FastStateClient(app) as client:
        answer = await client.call("Speaker/steps")
    counts = [frame.patch["count"] for frame in answer.frames if frame.patch]
    assert counts == [1, 2, 3]
    assert [element.html for element in answer.elements][:2] == ["one", '<p id="a">two</p>']
    assert answer.headers["content-type"] == "text/event-stream"


async def test_an_async_generator_sends_each_step(app: Any) -> None:
    async with FastStateClient(app) as client:
        answer = await client.call("Speaker/async_steps")
    assert answer.signals == {"count": 5}
    assert "/done" in answer.elements[-1].html


async def test_text_with_every_kind_of_line_stays_one_frame(app: Any) -> None:
    text = "a\rb\nc\r\nd\u2028e\x0bf\x1cg\x85h\x00i\n\nevent: evil\ndata: x"
    answer = await said(app, Html(f'<p id="a">{text}</p>'))
    assert [frame.event for frame in answer.frames] == ["datastar-patch-signals", "datastar-patch-elements"]
    assert "\u2028e\x0bf\x1cg\x85h" in answer.elements[0].html
    assert "event: evil" in answer.elements[0].html
