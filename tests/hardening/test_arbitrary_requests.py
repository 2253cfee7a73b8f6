"""Whatever a client sends: no server error but 503, no text of ours that helps an attacker, no field that is not bound."""

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.responses import PlainTextResponse

from faststate_asgi import Bound, Private, ReactiveState, Signals, event
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, RECORD, wrapped

EXAMPLES = 1000  # for each of the two tests; each is sent to ten addresses
EVERYWHERE = (
    "/faststate/events/Target/set_note",
    "/faststate/events/Target/many",
    "/faststate/events/Target/look",
    "/faststate/events/Thing/touch",
    "/faststate/sse",
    "/faststate/health",
    "/faststate/stats",
    "/faststate/metrics",
    "/faststate/datastar.js",
    "/faststate/",
    "/page",
)


class Address(BaseModel):
    """Something nested."""

    street: str
    number: int | None = None
    tags: list[str] = []


class Target(ReactiveState):
    """Takes arguments of many types; only two of its fields may be changed from outside."""

    note: Bound[str] = ""
    size: Bound[int | None] = None
    owner: str = "nobody"
    price: float = 9.5
    secret: Private[str] = "secret-canary"
    items: dict[str, list[int]] = {}

    @event
    def many(
        self,
        a: int = 1,
        b: float = 1.0,
        c: bool = False,
        d: str | None = None,
        e: list[int] | None = None,
        f: dict[str, Any] | None = None,
        g: Address | None = None,
    ) -> None:
        """Take everything, keep nothing."""

    @event
    def exotic(self, when: datetime, amount: Decimal, own: UUID, raw: bytes = b"") -> None:
        """Take what has to be parsed."""

    @event
    def upload(self, file: UploadFile, files: list[UploadFile] | None = None) -> None:
        """Take files."""

    @event
    def all(self, signals: Signals, auth: str | None, request: Any) -> None:
        """Take everything unchecked."""

    @event(method="get")
    def look(self, a: int = 1) -> None:
        """Answer GET."""

    @event(method="delete")
    def drop(self, a: int = 1) -> None:
        """Answer DELETE."""

    @event("/orders/{record_id}/{kind}")
    def by_path(self, kind: str = "") -> None:
        """Answer at a path of its own."""


class Thing(ReactiveState):
    """A record that nobody can change."""

    stock: int = 3

    @event
    def touch(self, note: str = "") -> None:
        """Do nothing."""


LONE = st.characters(codec=None)
TEXT = st.one_of(
    st.text(max_size=30),
    st.text(LONE, max_size=8),
    st.sampled_from(
        ["", "nan", "inf", "1e999", "-0", "null", "[]", "{}", "__proto__", "../..", "\x00", "a\r\nb: c", "%00", "';--"]
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
KNOWN = sorted({*Target.model_fields, *"abcdefg", "when", "amount", "own", "raw", "file", "auth", "self", "Target"})
NAMES = st.one_of(st.sampled_from(KNOWN), TEXT)
PATHS = st.one_of(
    st.sampled_from([f"Target/{name}" for name in sorted(Target.__faststate_events__) if name != "by_path"]),
    st.sampled_from(["Thing/touch", "orders/1/x", "orders//x", "Target/secret", "Target/__init__", "Target", "", "/"]),
    TEXT,
)
TYPES = st.sampled_from(
    [
        "application/json",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "text/plain",
        "",
        "multipart/form-data; boundary=\xff; charset=nonsense",
    ]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "idempotency-key",
            "faststate-live",
            "last-event-id",
            "datastar-request",
            "accept",
            "origin",
            "sec-fetch-site",
            "sec-fetch-mode",
            "cookie",
            "referer",
            "content-length",
            "host",
            "x-forwarded-for",
        ]
    ),
    st.one_of(
        st.text(st.characters(max_codepoint=255), max_size=80),
        st.sampled_from(["true", "same-origin", "http://127.0.0.1", "faststate_session=a.b.c.d", "9" * 5000, "-1"]),
    ),
    max_size=4,
)


def encoded_form(pairs: list[tuple[str, str]]) -> bytes:
    texts = ((quote(k, errors="replace"), quote(v, errors="replace")) for k, v in pairs)
    return "&".join(f"{k}={v}" for k, v in texts).encode()


def encoded_parts(pairs: list[tuple[str, str]]) -> bytes:
    body = b""
    for name, value in pairs:
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{value}"\r\n\r\n'
        body += head.encode("utf-8", "replace") + value.encode("utf-8", "replace") + b"\r\n"
    return body + b"--x--\r\n"


PAIRS = st.lists(st.tuples(NAMES, TEXT), max_size=4)
BODIES = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(NAMES, JSON, max_size=4).map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps(value).encode("utf-8", "replace")),
    PAIRS.map(encoded_form),
    PAIRS.map(encoded_parts),
    st.integers(1, 60).map(lambda depth: b'{"f":' * depth + b"1" + b"}" * depth),
)
QUERIES = st.one_of(
    st.just(b""),
    PAIRS.map(encoded_form),
    st.binary(max_size=40).map(lambda raw: raw.replace(b"#", b"")),
    JSON.map(lambda value: b"datastar=" + quote(json.dumps(value)).encode()),
)
LABELS = st.lists(
    st.one_of(
        st.sampled_from(["Target", "Thing", "Thing:1", "Nothing", "Target:x", ":", "Thing:", "Thing:%ff", "%00"]),
        TEXT.map(lambda text: "Thing:" + quote(text, safe="", errors="replace")),
        TEXT.map(lambda text: quote(text, errors="replace")),
    ),
    max_size=4,
)
FORBIDDEN = (b"Traceback", b"secret-canary", b'File "', b"pydantic_core", b"site-packages", b"RuntimeError")
FIXED = {"owner": "nobody", "price": 9.5, "items": {}}


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Be an app that asks who is there and reads what it may."""
    assert scope["type"] == "http"
    context = await scope["faststate"].resolve()
    target = await context.get_or_none(Target)
    await PlainTextResponse(f"{context.user} {target is not None}")(scope, receive, send)


class Runner:
    """Keeps one loop and one app for all examples."""

    def __init__(self) -> None:
        self.app = wrapped((Target, GLOBAL), (Thing, RECORD), app=page)
        self.requests = 0
        self.loop = asyncio.Runner()
        self.client = self.loop.run(FastStateClient(self.app).__aenter__())

    def close(self) -> None:
        self.loop.run(self.client.__aexit__(None, None, None))
        self.loop.close()

    def request(self, method: str, path: str, query: bytes, headers: dict[str, str], body: bytes) -> None:
        """Send a request to an address, and the same to nine others."""
        self.loop.run(self._all(method, path, query, headers, body))

    async def _all(self, method: str, path: str, query: bytes, headers: dict[str, str], body: bytes) -> None:
        await self._request(method, f"/faststate{path}", query, headers, body)
        first = self.requests % len(EVERYWHERE)
        for other in (EVERYWHERE * 2)[first : first + 9]:
            await self._request(method, other, query, headers, body)
        assert len(asyncio.all_tasks()) < 40, "what was refused leaves no task"

    async def _request(self, method: str, path: str, query: bytes, headers: dict[str, str], body: bytes) -> None:
        self.requests += 1
        sent: list[dict[str, Any]] = []
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                gone.set()

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        async with asyncio.timeout(20):
            await self.app(scope, receive, send)
        status = sent[0]["status"]
        content = b"".join(message.get("body", b"") for message in sent)
        assert status < 500 or status == 503, content
        assert b'"status":500' not in content.replace(b" ", b""), content
        assert not any(text in content for text in FORBIDDEN), content
        for name, value in sent[0]["headers"]:
            assert b"\n" not in name + value
            assert b"\r" not in name + value
        target = await self.app.faststate.get(Target)
        assert {name: getattr(target, name) for name in FIXED} == FIXED
        assert target.secret == "secret-canary"
        assert type(target.note) is str
        assert type(target.size) in (int, type(None))


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    made = Runner()
    yield made
    made.close()
    assert made.requests >= 10 * EXAMPLES


fuzz = settings(
    max_examples=EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@seed(20240607)
@fuzz
@given(
    method=st.sampled_from(["POST", "POST", "POST", "GET", "DELETE", "PUT", "HEAD", "OPTIONS"]),
    path=PATHS,
    query=QUERIES,
    headers=HEADERS,
    content_type=TYPES,
    body=BODIES,
)
def test_no_request_to_an_event_breaks_anything(
    runner: Runner,
    method: str,
    path: str,
    query: bytes,
    headers: dict[str, str],
    content_type: str,
    body: bytes,
) -> None:
    """One request that is not understood would crash the server, show its inside, or write what nobody may write."""
    runner.request(method, f"/events/{path}", query, {**headers, "content-type": content_type}, body)


@seed(20240608)
@fuzz
@given(
    method=st.sampled_from(["GET", "GET", "GET", "HEAD", "POST"]),
    labels=LABELS,
    extra=QUERIES,
    headers=HEADERS,
)
def test_no_request_for_a_stream_breaks_anything(
    runner: Runner, method: str, labels: list[str], extra: bytes, headers: dict[str, str]
) -> None:
    """A stream that is asked for in a way nobody thought of would fail with the server's inside, or show too much."""
    query = b"states=" + ",".join(labels).encode() + b"&" + extra
    runner.request(method, "/sse", query, headers, b"")
