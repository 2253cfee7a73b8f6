"""Everything that is written into a frame, an address, a header or an expression: it can be nothing else there."""

import json
import random
import re
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from faststate_asgi import (
    Bound,
    Dispatch,
    Elements,
    Html,
    InvalidStateError,
    ReactiveState,
    Redirect,
    Remove,
    Script,
    StateConfig,
    StateKey,
    StateScope,
    event,
    frames,
    js,
)
from faststate_asgi.answers import is_safe_target
from faststate_asgi.patches import check_plain, wire
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, RECORD, plain_app, wrapped

pytestmark = pytest.mark.anyio
fixed = settings(
    max_examples=400,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

LINES = ["\n", "\r", "\r\n", "\n\n", "\x00", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"]
BREAKERS = [
    *LINES,
    '\n\nevent: datastar-patch-elements\ndata: elements <div data-init="alert(1)"></div>\n\n',
    "\r\rid: 1\r\r",
    "\nretry: 1\n",
    "\ndata: mode remove",
    "</script><script>alert(1)</script>",
    "'\"`${alert(1)}",
    "@post('/x') $count",
    "\\u0027",
    "\ud7ff\ue000",
]
TEXT = st.lists(st.one_of(st.sampled_from(BREAKERS), st.text(max_size=8)), max_size=5).map("".join)


def messages(body: bytes) -> list[list[tuple[str, str]]]:
    """Read SSE as the specification (WHATWG HTML 9.2.6) says, with none of the package's code."""
    lines = re.split("\r\n|\r|\n", body.decode())
    assert lines[-2:] == ["", ""], "each message ends with an empty line"
    result: list[list[tuple[str, str]]] = [[]]
    for line in lines[:-1]:
        if line:
            name, _, value = line.partition(":")
            result[-1].append((name, value.removeprefix(" ")))
        else:
            result.append([])
    return [one for one in result if one]


@seed(11)
@fixed
@given(TEXT, TEXT, st.sampled_from(sorted(frames.MODES)))
def test_text_in_a_frame_begins_no_other_frame(selector: str, markup: str, mode: str) -> None:
    """A line break in a selector or a text would begin a message of the attacker's own, which runs code in the page."""
    try:
        body = frames.elements(markup, selector=selector, mode=mode)
    except ValueError:
        assert re.search("[\r\n\x00]", selector)
        return
    (fields,) = messages(body)
    assert {name for name, _ in fields} == {"event", "data"}
    assert [value for name, value in fields if name == "event"] == ["datastar-patch-elements"]
    heads = [value.partition(" ")[0] for name, value in fields if name == "data"]
    assert heads[0] == "selector"
    assert heads.count("selector") == 1
    assert heads.count("mode") == (mode != "outer")
    assert set(heads) <= {"selector", "mode", "elements"}


@seed(12)
@fixed
@given(TEXT, TEXT)
def test_values_in_frames_are_inert(name: str, value: str) -> None:
    """A value that ends the expression or the attribute it stands in would run as code."""
    for body in (
        frames.signals({"a": {name or "x": value}}),
        frames.dispatch(name, value),
        frames.redirect(value),
    ):
        (fields,) = messages(body)
        events = [text for field, text in fields if field == "event"]
        assert events in (["datastar-patch-signals"], ["datastar-patch-elements"])
        if events == ["datastar-patch-elements"]:
            markup = "".join(text.removeprefix("elements ") for _, text in fields if text.startswith("elements "))
            assert re.fullmatch(r'<div data-init="[^"<>]*"></div>', markup)
            assert not re.search(r"@\w+\(|\$\w", markup)
        else:
            (text,) = [text.removeprefix("signals ") for field, text in fields if field == "data"]
            assert json.loads(text) == {"a": {name or "x": value}}


class Thing(ReactiveState):
    """Has actions and fields of each kind."""

    note: Bound[str] = ""
    ratio: float = 0.0
    extra: dict[str, Any] = {}

    @event
    def put(self, text: str = "", ratio: float = 0.0, extra: dict[str, Any] | None = None) -> None:
        self.note, self.ratio, self.extra = text, ratio, extra or {}

    @event
    def poison(self, kind: str) -> None:
        self.extra = {
            "nan": {"a": float("nan")},
            "infinite": {"a": [float("inf")]},
            "proto": {"__proto__": {"a": 1}},
            "constructor": {"a": {"constructor": 1}},
            "prototype": {"a": [{"prototype": 1}]},
            "surrogate": {"a": "\ud800"},
            "surrogate key": {"\udc00": 1},
            "object": {"a": object()},
        }[kind]

    @event
    def answer(self, kind: str, text: str) -> Any:
        return {
            "text": lambda: text,
            "redirect": lambda: Redirect(text),
            "selector": lambda: Elements("<p>x</p>", selector=text),
            "remove": lambda: Remove(text),
            "dispatch": lambda: Dispatch(text, text),
            "html": lambda: Html("<p id='a'>x</p>"),
            "script": lambda: Script("1"),
            "json": lambda: JSONResponse({"text": text}),
        }[kind]()


@seed(13)
@fixed
@given(TEXT)
def test_values_in_actions_and_addresses_are_inert(text: str) -> None:
    """Somebody's name in a button's action would be code in everybody's page, or spoil all signals of it."""
    action = str(Thing.put(text))
    assert not set(action.split("payload:", 1)[1].split("}", 1)[0]) & set("<>&@$`")
    assert action.isascii()
    assert "@post(" in action
    assert action.count("@") == 1
    key = StateKey(StateScope.RECORD, "Thing", record_id=text or "x")
    assert re.fullmatch(r"Thing:[A-Za-z0-9%._~-]+", key.label)


def test_an_expression_of_the_developer_is_taken_as_it_is() -> None:
    """What `js` marks is code; the difference has to be visible where it is written."""
    assert "$step" in str(Thing.put(js("$step")))
    assert "$step" not in str(Thing.put("$step"))


TARGETS = [
    "//evil.example",
    "///evil.example",
    "////evil.example/x",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "\x00//evil.example",
    "\x1f/x",
    "https://evil.example",
    "http://evil.example",
    "https:evil.example",
    "http:/evil.example",
    "https:///evil.example",
    "HTTPS://evil.example",
    "hTtP:evil.example",
    "ftp://evil.example",
    "ws://evil.example",
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    "\tjavascript:alert(1)",
    "java\tscript:alert(1)",
    "java\nscript:alert(1)",
    "\x01javascript:alert(1)",
    "javascript://%0aalert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "blob:https://evil.example/x",
    "file:///etc/passwd",
    "about:blank",
    "mailto:a@b",
    "intent://x#Intent;scheme=http;end",
    "view-source:x",
    "x:y",
    "//user@evil.example",
    "//evil.example:80",
    "//[::1]/",
    "http://[::1",
    "//evil.example\\@good",
    "/a\r\nset-cookie: a=b",
    "/a\x7f",
    "",
]
GOOD = [
    "/",
    "/a",
    "/a?next=//evil.example",
    "/a#//evil.example",
    "a/b",
    "?a=1",
    "#x",
    "/a:b",
    "/ä",
    "/a'b\"c",
    "/x'+alert(1)+'",
    "/%0d%0a",
    "/%5C%5Cevil.example",
    "/.//evil.example",
    "/a/../..//evil.example",
    "./a:b",
]


@pytest.mark.parametrize("target", [*TARGETS, *GOOD])
def test_a_redirect_stays_on_the_site(target: str) -> None:
    """A link to this site would lead to the attacker's, which looks the same and asks for the password."""
    assert is_safe_target(target) is (target in GOOD)
    if target in GOOD:
        # As browsers read addresses: tabs and line breaks are dropped, a backslash is a slash.
        read = re.sub("[\t\r\n]", "", target.strip()).replace("\\", "/")
        assert urlsplit(urljoin("https://good.example/page", read)).netloc == "good.example"
        (fields,) = messages(frames.redirect(target))
        assert "script" not in "".join(value for _, value in fields)
    else:
        with pytest.raises(ValueError, match="leaves this site"):
            Redirect(target)


async def test_an_event_that_redirects_to_what_a_client_sent_never_leaves_the_site() -> None:
    """A `next` that is passed on as it came would lead from the login to the attacker's copy of it, or run code."""
    async with FastStateClient(wrapped((Thing, GLOBAL))) as client:
        for target in [*TARGETS, *GOOD]:
            asked = {"kind": "redirect", "text": target}
            plain = await client.call("Thing/answer", asked, datastar=False)
            page = await client.call("Thing/answer", asked)
            if target in GOOD:
                assert plain.status == 303, target
                there = urljoin("https://good.example/page", plain.headers["location"])
                assert urlsplit(there)[:2] == ("https", "good.example"), target
                assert [frame.event for frame in page.elements] == ["datastar-patch-elements"]
                assert b"<script" not in page.body
            else:
                assert (plain.status, "location" in plain.headers) == (500, False), target
                assert page.error is not None, target
                assert (page.error["status"], page.elements) == (500, []), target


@pytest.mark.parametrize("kind", ["redirect", "selector", "remove", "dispatch", "text", "json"])
@pytest.mark.parametrize("text", BREAKERS[:15])
async def test_answers_with_text_of_a_client_are_one_answer(kind: str, text: str) -> None:
    """What a client sends would come back as a message, a header or a script of its own."""
    async with FastStateClient(wrapped((Thing, GLOBAL))) as client:
        for datastar in (True, False):
            answer = await client.call("Thing/answer", {"kind": kind, "text": text}, datastar=datastar)
            assert answer.status in (200, 303, 500)
            assert not any("\n" in value or "\r" in value for value in answer.headers.values())
            media = answer.headers.get("content-type", "")
            assert media in ("", "text/event-stream", "application/json", "application/problem+json")
            if media == "text/event-stream":
                allowed = 2 if b'"error"' in answer.body else 1
                assert len(messages(answer.body)) == allowed
                assert b"<script" not in answer.body


POISON = ["nan", "infinite", "proto", "constructor", "prototype", "surrogate", "surrogate key", "object"]


@pytest.mark.parametrize("kind", POISON)
async def test_what_breaks_pages_is_refused_at_the_commit(kind: str) -> None:
    """One stored value would break every page that shows it, and stop the stream of everybody who watches."""
    app = wrapped((Thing, GLOBAL))
    async with FastStateClient(app) as client:
        tabs = [client.stream("Thing") for _ in range(20)]
        streams = [await tab.__aenter__() for tab in tabs]
        for stream in streams:
            await stream.until(lambda signals: "note" in signals)
        answer = await client.call("Thing/poison", {"kind": kind}, datastar=False)
        assert answer.status == 500
        assert (await app.faststate.get(Thing)).version == "0"
        await client.call("Thing/put", {"text": "after"})
        for stream in streams:
            await stream.until(lambda signals: signals["note"] == "after")
        for tab in tabs:
            await tab.__aexit__(None, None, None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.text(st.characters(codec=None), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.one_of(TEXT, st.sampled_from(["__proto__", "constructor"])), inner, max_size=3)
    ),
    max_leaves=10,
)


@seed(14)
@settings(fixed, max_examples=600)
@given(VALUES)
def test_every_signal_is_strict_json_or_refused(value: Any) -> None:
    """Datastar evaluates what is no JSON as JavaScript: text of a user in it would be code."""
    try:
        patch = wire({"a": value})
        check_plain(value, "value")
    except InvalidStateError:
        return
    (fields,) = messages(frames.signals(patch))
    text = next(text for name, text in fields if name == "data").removeprefix("signals ")
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert not re.search(r'"(__proto__|constructor|prototype)":', text)


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.full)])
def test_no_two_keys_are_one(count: int) -> None:
    """A user id made for it would be the key of another user's state, or of everybody's."""
    rng = random.Random(15)
    parts = [*":%/{}*?[]", "42}:admin", "a:b", "a", "b", "%3A", "é", "\u202e", " ", "global", "user", "Thing"]
    seen: dict[str, StateKey] = {}

    def text() -> str:
        return "".join(rng.choice(parts) for _ in range(rng.randint(1, 4)))

    makers: list[Any] = [
        lambda: StateKey(StateScope.USER, rng.choice(("Thing", "Other")), user_id=text()),
        lambda: StateKey(StateScope.SESSION, "Thing", session_id=text()),
        lambda: StateKey(StateScope.COMPONENT, "Thing", session_id=text(), component_id=text()),
        lambda: StateKey(StateScope.RECORD, rng.choice(("Thing", "Other")), record_id=text()),
    ]
    for _ in range(count):
        key = rng.choice(makers)()
        known = seen.setdefault(str(key), key)
        assert (known.scope, known.name, known.user_id, known.session_id, known.component_id, known.record_id) == (
            key.scope,
            key.name,
            key.user_id,
            key.session_id,
            key.component_id,
            key.record_id,
        )
        assert StateKey.parse(str(key)) == key
        assert not re.search(r"[{}*?\[\]\s]", str(key))


SPELLINGS = [
    "Mine:{other}",
    "Mine:user:{other}",
    "user:{other}:Mine",
    "Mine%3A{other}",
    "Mine:%2e%2e/{other}",
    "user%3A{other}%3AMine",
    "Mine,user:{other}",
    "../user/{other}",
    "Mine?user_id={other}",
    "Mine*",
    "*",
    "Mine:*",
    "global:Thing",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_no_spelling_of_a_key_opens_anothers_state(spelling: str) -> None:
    """Whoever names another's key in the stream's address would read along."""

    class Mine(ReactiveState):
        """Belongs to a user."""

        secret: str = ""

    app = wrapped(
        (Mine, StateConfig(scope=StateScope.USER)), (Thing, GLOBAL), authenticate=lambda c: c.headers.get("x-who")
    )
    async with FastStateClient(app) as client:
        async with app.faststate.transaction(Mine, user_id="ada") as mine:
            mine.secret = "canary"
        given = spelling.format(other="ada")
        for label in (given, quote(given, safe=""), quote(quote(given, safe=""), safe="")):
            for query in (label, f"Thing,{label}"):
                async with client.stream(query, headers={"x-who": "eve"}, datastar=False) as stream:
                    if stream.status == 200:  # read as the caller's own state
                        signals = await stream.until(lambda signals: "secret" in signals)
                        assert signals["secret"] == ""
                    else:
                        assert stream.status in (400, 403)
                        assert app.faststate.hub.stream_count == 0
                        assert b"canary" not in await stream.body()


CURSORS = ["9" * 20, "1-aaaaaaaa", "0", "", "x" * 5000, "\x00", "a\r\nb", "../..", "%00", "-1", "null", "💥"]


async def test_a_forged_position_brings_a_snapshot_and_nothing_else() -> None:
    """A position in the stream that was made up would skip changes, read another's, or make the server replay for long."""
    rng = random.Random(16)
    app = wrapped((Thing, GLOBAL))
    async with FastStateClient(app) as client:
        await client.call("Thing/put", {"text": "now"})
        alphabet = "0123456789abcdefghijklmnopqrstuvwxyz-_=/+%:"
        made = ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 64))) for _ in range(300)]
        for cursor in (*(text.encode().decode("latin-1") for text in CURSORS), *made):
            async with client.stream("Thing", last_event_id=cursor) as stream:
                signals = await stream.until(lambda signals: "note" in signals)
                assert (stream.status, signals["note"]) == (200, "now")


async def test_everything_that_is_answered_has_a_known_type() -> None:
    """An answer that a browser takes for a script or a page would run in the site's name."""
    allowed = {"text/event-stream", "application/json", "application/problem+json"}
    app = wrapped((Thing, GLOBAL), (type("Rec", (Thing,), {"__module__": __name__}), RECORD), metrics_public=True)
    async with FastStateClient(app) as client:
        paths = [
            "/health",
            "/stats",
            "/metrics",
            "/sse?states=Nothing",
            "/nothing",
            "/events/Thing/put",
            "/datastar.js",
        ]
        for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT"):
            for path in paths:
                answer = await client.request(method, f"/faststate{path}", headers={"accept": "text/html"})
                media = answer.headers.get("content-type", "").partition(";")[0]
                assert media in allowed or (media == "text/plain" and path == "/metrics") or answer.status == 204
                assert answer.status == 204 or answer.headers["x-content-type-options"] == "nosniff"
                assert "access-control-allow-origin" not in answer.headers
                assert answer.status == 204 or answer.headers["cross-origin-resource-policy"] == "same-origin"


async def test_other_kinds_of_connection_pass_untouched() -> None:
    """A kind of connection that nobody thought of would slip past the checks, or bring the server down."""
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    app = wrapped((Thing, GLOBAL), app=inner)
    async with FastStateClient(wrapped((Thing, GLOBAL), app=plain_app)):
        await app({"type": "telepathy"}, None, None)
        await app({"type": "websocket", "path": "/faststate/sse", "headers": [], "scheme": "ws"}, None, None)
    assert seen == ["telepathy", "websocket"]
    await app.faststate.aclose()
