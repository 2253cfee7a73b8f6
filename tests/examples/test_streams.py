"""Live pages: who receives which change, how streams come and go, and what they say while nothing happens."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fasthtml.common import Div, Li, Ul
from pydantic import Field
from starlette.responses import PlainTextResponse

from faststate_asgi import (
    FastStateMiddleware,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
    fragment,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class Value(ReactiveState):
    """What the watched states have in common."""

    value: int = 0

    @event
    def change(self, value: int) -> None:
        """Take a value."""
        self.value = value


class Notice(Value):
    """For everybody."""


class Basket(Value):
    """For one session."""


class Mailbox(Value):
    """For one user."""


class Panel(Value):
    """For one component in one session."""


class Item(Value):
    """One of many records."""


class Pulse(Value):
    """Comes after everything else, so that what is missing by then was not sent."""


class Board(ReactiveState):
    """Messages that several people read."""

    messages: list[str] = Field(default_factory=list)
    count: int = 0
    topic: str = "none"

    @event
    def post(self, text: str) -> Any:
        """Add a message and thank its author."""
        self.messages.append(text)
        self.count += 1
        return Div("Thank you", id="thanks")

    @fragment(on=("messages",))
    def message_list(self) -> Any:
        """The messages as a list."""
        return Ul(*[Li(text) for text in self.messages], id="messages")


CONFIGS = {
    Notice: StateConfig(scope=StateScope.GLOBAL, namespace="notice"),
    Basket: StateConfig(scope=StateScope.SESSION, namespace="basket"),
    Mailbox: StateConfig(scope=StateScope.USER, namespace="mailbox"),
    Panel: StateConfig(scope=StateScope.COMPONENT, namespace="panel"),
    Item: StateConfig(scope=StateScope.RECORD, namespace="item", public=True),
    Pulse: StateConfig(scope=StateScope.GLOBAL, namespace="pulse"),
    Board: StateConfig(scope=StateScope.GLOBAL),
}


@pytest.fixture
def make_site(new_app: Any, wrap: Any, registry: StateRegistry) -> Any:
    """Make a site with a login."""

    def make(**settings: Any) -> FastStateMiddleware:
        for state_class, config in CONFIGS.items():
            registry.register(state_class, config)
        app, rt = new_app()

        @rt("/login", methods=["POST"])
        async def log_in(req, user: str) -> Any:  # type: ignore[no-untyped-def]
            await req.scope["faststate"].login(user)
            return PlainTextResponse(user)

        return wrap(app, **settings)

    return make


def value_in(signals: dict[str, Any], namespace: str) -> int:
    """Return the value of the only state of that namespace."""
    found = signals[namespace]
    while "value" not in found:
        (found,) = found.values()
    return int(found["value"])


LAPTOP_OF_ALICE, PHONE_OF_ALICE, LAPTOP_OF_BOB = range(3)
RECEIVERS = [
    (
        "Notice/change",
        {},
        [
            (LAPTOP_OF_ALICE, "Notice", True),
            (PHONE_OF_ALICE, "Notice", True),
            (LAPTOP_OF_BOB, "Notice", True),
        ],
    ),
    (
        "Basket/change",
        {},
        [
            (LAPTOP_OF_ALICE, "Basket", True),
            (PHONE_OF_ALICE, "Basket", False),
            (LAPTOP_OF_BOB, "Basket", False),
        ],
    ),
    (
        "Mailbox/change",
        {},
        [
            (LAPTOP_OF_ALICE, "Mailbox", True),
            (PHONE_OF_ALICE, "Mailbox", True),
            (LAPTOP_OF_BOB, "Mailbox", False),
        ],
    ),
    (
        "Panel/change",
        {"component_id": "left"},
        [
            (LAPTOP_OF_ALICE, "Panel:left", True),
            (LAPTOP_OF_ALICE, "Panel:right", False),
            (PHONE_OF_ALICE, "Panel:left", False),
        ],
    ),
    (
        "Item/change",
        {"record_id": "1"},
        [
            (LAPTOP_OF_ALICE, "Item:1", True),
            (LAPTOP_OF_BOB, "Item:1", True),
            (PHONE_OF_ALICE, "Item:2", False),
        ],
    ),
]


@pytest.mark.parametrize(
    ("path", "ids", "watchers"), RECEIVERS, ids=["global", "session", "user", "component", "record"]
)
async def test_a_change_reaches_exactly_those_who_share_the_state(
    make_site: Any, browsers: Any, path: str, ids: dict[str, str], watchers: list[tuple[int, str, bool]]
) -> None:
    namespace = path.split("/")[0].lower()
    site = make_site()
    async with browsers(site, 3) as clients, AsyncExitStack() as stack:
        for client, user in zip(clients, ("alice", "alice", "bob"), strict=True):
            await client.post("/login", data={"user": user})
        streams = [
            await stack.enter_async_context(clients[number].stream(states, "Pulse")) for number, states, _ in watchers
        ]
        for stream in streams:
            await stream.until(lambda signals: namespace in signals and "pulse" in signals)
        await clients[LAPTOP_OF_ALICE].call(path, {"value": 5}, ids=ids)
        await clients[LAPTOP_OF_BOB].call("Pulse/change", {"value": 1})
        for stream in streams:
            await stream.until(lambda signals: signals["pulse"]["value"] == 1)
        values = [value_in(stream.signals, namespace) for stream in streams]
    assert values == [5 if receives else 0 for _, _, receives in watchers]


async def test_a_stream_counts_while_it_is_open_and_no_longer(make_site: Any) -> None:
    site = make_site(max_streams_per_session=1)
    async with FastStateClient(site) as client:
        await client.post("/login", data={"user": "alice"})
        for _ in range(3):
            async with client.stream("Basket") as stream:
                await stream.until(lambda signals: "basket" in signals)
                refused = await client.get("/faststate/sse?states=Basket")
                assert refused.status == 429
                assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("states", "status"),
    [("Nothing", 400), ("", 400), ("Item", 400), ("Mailbox", 401), ("Notice,Mailbox", 401)],
)
async def test_one_refused_state_refuses_the_stream(make_site: Any, states: str, status: int) -> None:
    async with FastStateClient(make_site()) as client:
        plain = await client.get(f"/faststate/sse?states={states}")
        datastar = await client.get(f"/faststate/sse?states={states}", headers={"Datastar-Request": "true"})
    assert plain.status == status
    assert datastar.status == 200
    assert datastar.headers["content-type"].startswith("application/json")
    assert datastar.json()["_faststate"]["error"]["status"] == status


async def test_an_idle_stream_sends_heartbeats(make_site: Any) -> None:
    site = make_site(heartbeat=0.05)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/faststate/sse",
        "raw_path": b"/faststate/sse",
        "root_path": "",
        "query_string": b"states=Notice",
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }
    received = bytearray()
    has_three = asyncio.Event()
    is_over = asyncio.Event()
    requests = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in requests:
            return message
        await is_over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        received.extend(message.get("body", b""))
        if sum(line.startswith(b":") for line in received.split(b"\n")) >= 3:
            has_three.set()

    async with FastStateClient(site):
        running = asyncio.create_task(site(scope, receive, send))
        await asyncio.wait_for(has_three.wait(), 10)
        is_over.set()
        await asyncio.wait_for(running, 10)
    assert received.count(b"event: datastar-patch-signals") == 1


async def test_an_event_answers_its_caller_and_tells_everybody_who_watches(
    make_site: Any, browsers: Any, read_markup: Any
) -> None:
    async with browsers(make_site(), 2) as (author, reader), reader.stream("Board") as stream:
        first = [await stream.next() for _ in range(2)]
        answer = await author.call(Board.post, "<b>Hello</b>")
        news = [await stream.next() for _ in range(2)]
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.signals == {"messages": ["<b>Hello</b>"], "count": 1}
    assert [frame.event for frame in answer.frames] == ["datastar-patch-signals"] + ["datastar-patch-elements"] * 2
    assert read_markup(answer.elements[0].html).one("ul", id="messages").text == "<b>Hello</b>"
    assert read_markup(answer.elements[1].html).one("div", id="thanks").text == "Thank you"
    for signals, fragments in (first, news):
        assert (signals.event, fragments.event) == ("datastar-patch-signals", "datastar-patch-elements")
    assert [read_markup(frames[1].html).one("ul", id="messages").text for frames in (first, news)] == [
        "",
        "<b>Hello</b>",
    ]
    assert news[0].patch == {"messages": ["<b>Hello</b>"], "count": 1}
