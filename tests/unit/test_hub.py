"""Mirrors and streams of one process, without any server."""

import asyncio
from typing import Any

import pytest

from faststate_asgi import ReactiveState, StateKey, StateRegistry, StateScope
from faststate_asgi.hub import Hub
from faststate_asgi.messages import Ended, Published
from faststate_asgi.mirror import Stream
from faststate_asgi.stores.base import Snapshot
from faststate_asgi.updates import Update
from tests.hardening.wrapping import GLOBAL

pytestmark = pytest.mark.anyio


class One(ReactiveState):
    """Watched."""

    one: int = 0


class Two(ReactiveState):
    """Watched too."""

    two: int = 0


REGISTRY = StateRegistry()
REGISTRY.register(One, GLOBAL)
REGISTRY.register(Two, GLOBAL)
ONE, TWO = (StateKey(StateScope.GLOBAL, name) for name in ("One", "Two"))
PLANS = {ONE: REGISTRY.plan(One), TWO: REGISTRY.plan(Two)}


class Shelf:
    """What the hub reads from: a dictionary whose reads can be held up."""

    def __init__(self) -> None:
        self.stored: dict[StateKey, Snapshot] = {}
        self.held: dict[StateKey, asyncio.Event] = {}
        self.reads: list[StateKey] = []

    async def read(self, plan: Any, key: StateKey) -> Snapshot | None:
        self.reads.append(key)
        found = self.stored.get(key)
        if key in self.held:
            await self.held[key].wait()
        return found

    def load(self, plan: Any, snapshot: Snapshot | None, key: StateKey) -> ReactiveState:
        return plan.cls() if snapshot is None else plan.codec.load(snapshot.data)

    def put(self, key: StateKey, number: int) -> Update:
        """Store the next version and return the update that a commit would publish."""
        before = self.stored[key].version if key in self.stored else "0"
        version, field = f"{number}-x", PLANS[key].codec.stored[0]
        data = f'{{"{field}":{number}}}'.encode()
        self.stored[key] = Snapshot(version, data)
        return Update(PLANS[key], key, before, version, data, (field,), {field: number}, {field: number})


class Page:
    """Collects what is sent to one stream."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def send(self, message: dict[str, Any]) -> None:
        self.bodies.append(message["body"])


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def hub(shelf: Shelf) -> Any:
    made = Hub(shelf.read, shelf.load, write_deadline_s=1, heartbeat_s=60)
    yield made
    await made.aclose()


async def opened(hub: Hub, *keys: StateKey, session: str | None = None) -> tuple[Stream, Page]:
    page = Page()
    mirrors = await hub.mirrors([(PLANS[key], key) for key in keys])
    stream = Stream(page.send, mirrors, session, session, None)
    hub.attach(stream)
    stream.is_blocked = False
    return stream, page


async def settled(hub: Hub) -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_key_is_read_once_for_many_streams(hub: Hub, shelf: Shelf) -> None:
    await asyncio.gather(*(opened(hub, ONE) for _ in range(50)))
    assert shelf.reads == [ONE]


async def test_an_update_reaches_only_the_streams_of_its_key(hub: Hub, shelf: Shelf) -> None:
    _, one = await opened(hub, ONE)
    _, two = await opened(hub, TWO)
    hub.publish([shelf.put(ONE, 1)])
    await settled(hub)
    assert b'{"one":1}' in b"".join(one.bodies)
    assert two.bodies == []


async def test_an_update_that_does_not_follow_makes_the_hub_read_again(hub: Hub, shelf: Shelf) -> None:
    _, page = await opened(hub, ONE)
    shelf.put(ONE, 1)
    hub.publish([shelf.put(ONE, 2)])
    await settled(hub)
    assert shelf.reads == [ONE, ONE]
    assert b'{"one":2}' in b"".join(page.bodies)


async def test_a_change_during_the_first_read_is_not_missed(hub: Hub, shelf: Shelf) -> None:
    shelf.held[ONE] = asyncio.Event()
    opening = asyncio.create_task(opened(hub, ONE))
    await settled(hub)
    hub.publish([shelf.put(ONE, 1)])
    shelf.held[ONE].set()
    stream, _ = await opening
    assert stream.mirrors[0].values == {"one": 1}


async def test_news_of_other_processes_and_lost_messages_are_read(hub: Hub, shelf: Shelf) -> None:
    _, page = await opened(hub, ONE)
    update = shelf.put(ONE, 1)
    hub.receive(Published(ONE, update.before, update.version))
    await settled(hub)
    assert b'{"one":1}' in b"".join(page.bodies)
    shelf.put(ONE, 2)
    hub.receive(None)
    await settled(hub)
    assert b'{"one":2}' in b"".join(page.bodies)
    hub.receive(Published(ONE, "1-x", "2-x"))
    await settled(hub)
    assert len(page.bodies) == 2


async def test_a_mirror_lives_as_long_as_its_streams(hub: Hub, shelf: Shelf) -> None:
    first, _ = await opened(hub, ONE)
    second, _ = await opened(hub, ONE)
    hub.detach(first)
    assert len(hub.watched) == 1
    hub.detach(second)
    hub.detach(second)
    assert (hub.watched, hub.stream_count) == ([], 0)


async def test_a_mirror_that_was_dropped_while_another_loaded_takes_nobodys_place(hub: Hub, shelf: Shelf) -> None:
    first, _ = await opened(hub, ONE)
    shelf.held[TWO] = asyncio.Event()
    opening = asyncio.create_task(opened(hub, ONE, TWO))
    await settled(hub)
    hub.detach(first)
    hub.publish([shelf.put(ONE, 1)])
    _, other = await opened(hub, ONE)
    shelf.held[TWO].set()
    both, page = await opening
    assert both.mirrors[0].values == {"one": 1}
    hub.publish([shelf.put(ONE, 2)])
    await settled(hub)
    for watching in (other, page):
        assert b'{"one":2}' in b"".join(watching.bodies)


async def test_ended_sessions_end_their_streams_only(hub: Hub, shelf: Shelf) -> None:
    mine, _ = await opened(hub, ONE, session="a")
    foreign, _ = await opened(hub, ONE, session="b")
    anonymous, _ = await opened(hub, ONE)
    hub.receive(Ended(session="a"))
    assert [stream.retry_ms is not None for stream in (mine, foreign, anonymous)] == [True, False, False]
    assert hub.session_streams("a") == 1
    hub.detach(mine)
    assert hub.session_streams("a") == 0


async def test_all_streams_end_with_delays_of_their_own(hub: Hub, shelf: Shelf) -> None:
    streams = [(await opened(hub, ONE))[0] for _ in range(40)]
    hub.end_all()
    delays = [stream.retry_ms for stream in streams]
    assert all(delay is not None and 1000 <= delay <= 10_000 for delay in delays)
    assert len(set(delays)) > 20


async def test_a_read_that_fails_can_be_tried_again(hub: Hub, shelf: Shelf) -> None:
    shelf.stored[ONE] = Snapshot("1-x", b'{"one": "nonsense"}')
    with pytest.raises(ValueError, match="one"):
        await opened(hub, ONE)
    shelf.stored[ONE] = Snapshot("2-x", b'{"one": 5}')
    stream, _ = await opened(hub, ONE)
    assert stream.mirrors[0].values == {"one": 5}
