"""What a stream sends first, what it sends on, who is refused, and how it ends."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from starlette.exceptions import HTTPException

from faststate_asgi import (
    Html,
    Identity,
    ReactiveState,
    RequestContext,
    StateConfig,
    StateScope,
    event,
    fragment,
)
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, RECORD, wrapped

pytestmark = pytest.mark.anyio


class Board(ReactiveState):
    """Everybody sees it."""

    count: int = 0
    tags: dict[str, int] = {}
    note: str | None = None

    @fragment(on=("count",))
    def shown(self) -> Html:
        """Show the count as markup."""
        return Html(f'<p id="shown">{self.count}</p>')

    @event
    def add(self, amount: int = 1) -> None:
        self.count += amount

    @event
    def tag(self, name: str, value: int | None = 1) -> None:
        if value is None:
            del self.tags[name]
        else:
            self.tags[name] = value

    @event
    def remark(self, text: str | None = None) -> None:
        self.note = text

    @event(broadcast=True, selector="#log", mode="append")
    def shout(self, text: str = "hi") -> str:
        return text

    @event
    def drop(self) -> None:
        self.delete()


class Own(ReactiveState):
    """One visitor sees it."""

    mine: int = 0

    @event
    def take(self) -> None:
        self.mine += 1

    @event
    async def enter(self, context: RequestContext, name: str = "ada") -> None:
        await context.login(name)

    @event
    async def leave(self, context: RequestContext) -> None:
        await context.logout()


class Item(ReactiveState):
    """A record."""

    name: str = "thing"
    stock: int = 3

    @event
    def sell(self) -> None:
        self.stock -= 1


class Widget(ReactiveState):
    """A component."""

    is_open: bool = False

    @event
    def toggle(self) -> None:
        self.is_open = not self.is_open


class Personal(ReactiveState):
    """One user sees it."""

    points: int = 0

    @event
    def score(self) -> None:
        self.points += 1


COMPONENT = StateConfig(scope=StateScope.COMPONENT, namespace=True)
USER = StateConfig(scope=StateScope.USER)


@pytest.fixture
def site() -> Callable[..., Any]:
    def make(**settings: Any) -> Any:
        declared = (Board, GLOBAL), Own, (Item, RECORD), (Widget, COMPONENT), (Personal, USER)
        return wrapped(*declared, **settings)

    return make


async def test_the_first_frames_bring_everything(site: Any) -> None:
    async with FastStateClient(site()) as client:
        await client.call("Board/tag", {"name": "a"})
        async with client.stream("Board") as stream:
            await stream.until(lambda signals: "tags" in signals and signals["tags"] == {"a": 1})
            await stream.next()
            assert stream.signals == {
                "count": 0,
                "tags": {"a": 1},
                "note": "",
                "_faststate": {"connected": True, "live": "Board"},
            }
            assert stream.frames[-1].html == '<p id="shown">0</p>'
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert "no-store" in stream.headers["cache-control"]
            assert stream.headers["x-accel-buffering"] == "no"
            assert stream.headers["x-content-type-options"] == "nosniff"
            assert "set-cookie" not in stream.headers


async def test_the_retry_line_is_drawn_for_each_stream(site: Any) -> None:
    delays = set()
    async with FastStateClient(site()) as client:
        for _ in range(8):
            async with client.stream("Board") as stream:
                await stream.next()
                delays.add(stream.retry_ms)
    assert len(delays) > 2
    assert all(1000 <= delay <= 10_000 for delay in delays if delay is not None)


async def test_every_change_comes_in_order(site: Any) -> None:
    async with FastStateClient(site()) as client, client.stream("Board") as stream:
        await stream.next()
        for _ in range(20):
            await client.call("Board/add")
        await stream.until(lambda signals: signals.get("count") == 20)
        counts = [frame.patch["count"] for frame in stream.frames if frame.patch and "count" in frame.patch]
        assert counts == sorted(counts)


async def test_only_what_changed_is_sent(site: Any) -> None:
    async with FastStateClient(site()) as client, client.stream("Board") as stream:
        await client.call("Board/tag", {"name": "a"})
        await stream.until(lambda signals: signals.get("tags") == {"a": 1})
        seen = len(stream.frames)
        await client.call("Board/tag", {"name": "b", "value": 2})
        await stream.until(lambda signals: signals.get("tags") == {"a": 1, "b": 2})
        assert [frame.patch for frame in stream.frames[seen:] if frame.patch] == [{"tags": {"b": 2}}]


async def test_a_removed_key_disappears_without_any_null(site: Any) -> None:
    async with FastStateClient(site()) as client, client.stream("Board") as stream:
        await client.call("Board/tag", {"name": "a"})
        await client.call("Board/tag", {"name": "b"})
        await client.call("Board/tag", {"name": "a", "value": None})
        await client.call("Board/remark", {"text": "x"})
        await client.call("Board/remark", {"text": None})
        await stream.until(lambda signals: signals.get("tags") == {"b": 1} and signals.get("note") == "")
        assert "null" not in json.dumps([frame.patch for frame in stream.frames if frame.patch is not None])


async def test_the_same_id_again_means_that_nothing_was_missed(site: Any) -> None:
    async with FastStateClient(site()) as client:
        async with client.stream("Board") as stream:
            await client.call("Board/add")
            await stream.until(lambda signals: signals.get("count") == 1)
            while not stream.frames[-1].id:
                await stream.next()
            last_id = stream.last_id
        async with client.stream("Board", last_event_id=last_id) as again:
            await again.next()
            assert again.signals == {"_faststate": {"connected": True, "live": "Board"}}
            await client.call("Board/add")
            await again.until(lambda signals: signals.get("count") == 2)
            assert [frame.patch for frame in again.frames[1:]] == [{"count": 2}]


async def test_a_client_that_missed_something_gets_a_snapshot(site: Any) -> None:
    async with FastStateClient(site()) as client:
        async with client.stream("Board") as stream:
            await stream.until(lambda signals: "count" in signals)
            last_id = stream.last_id
        await client.call("Board/add")
        async with client.stream("Board", last_event_id=last_id) as again:
            await again.until(lambda signals: signals.get("count") == 1)


@pytest.mark.parametrize(
    "last_event_id", ["", "0", "9" * 20, "x" * 4000, "\xff\x01", "a\tb", "0123456789abcdef", "null", "-1", "'\"<>"]
)
async def test_an_unknown_last_id_gets_a_snapshot(site: Any, last_event_id: str) -> None:
    async with FastStateClient(site()) as client:
        await client.call("Board/add")
        async with client.stream("Board", last_event_id=last_event_id) as stream:
            await stream.until(lambda signals: signals.get("count") == 1)
            assert stream.status == 200


async def test_two_states_in_one_stream(site: Any) -> None:
    async with FastStateClient(site()) as client:
        await client.call("Own/take")
        async with client.stream("Board", "Own") as stream:
            await stream.until(lambda signals: "count" in signals and signals.get("mine") == 1)
            assert stream.signals["_faststate"]["live"] == "Board,Own"
            await client.call("Own/take")
            await client.call("Board/add")
            await stream.until(lambda signals: (signals["count"], signals["mine"]) == (1, 2))


async def test_the_same_state_named_twice_is_sent_once(site: Any) -> None:
    async with FastStateClient(site()) as client, client.stream("Board", "Board") as stream:
        await stream.next()
        await client.call("Board/add")
        await stream.until(lambda signals: signals.get("count") == 1)
        patches = [frame.patch for frame in stream.frames if frame.patch]
        assert patches.count({"count": 1}) <= 1


@pytest.mark.parametrize("own_id", ["42", "a b", "a,b", "a:b", "50%25", "ü", "x/y", "a+b", "&=#?", "%2C"])
async def test_a_stream_watches_the_record_that_it_names(site: Any, own_id: str) -> None:
    app = site()
    async with FastStateClient(app) as client:
        async with app.faststate.transaction(Item, record_id=own_id) as item:
            item.stock = 77
        async with client.stream(f"Item:{quote(own_id, safe='')}") as stream:
            await stream.until(lambda signals: "Item" in signals)
            ((_, values),) = stream.signals["Item"].items()
            assert values["stock"] == 77
            await client.call("Item/sell", ids={"record_id": own_id})
            await stream.until(lambda signals: next(iter(signals["Item"].values()))["stock"] == 76)


async def test_two_records_and_a_component_in_one_stream(site: Any) -> None:
    async with FastStateClient(site()) as client:
        await client.call("Own/take")
        async with client.stream("Item:1", "Item:2", "Widget:left") as stream:
            await stream.until(lambda signals: "Widget" in signals)
            await client.call("Item/sell", ids={"record_id": "2"})
            await client.call("Widget/toggle", ids={"component_id": "left"})
            await client.call("Widget/toggle", ids={"component_id": "right"})
            await stream.until(lambda signals: signals["Widget"]["left"]["is_open"] is True)
            assert stream.signals["Item"] == {
                "1": {"name": "thing", "stock": 3},
                "2": {"name": "thing", "stock": 2},
            }
            assert stream.signals["Widget"] == {"left": {"is_open": True}}


async def test_broadcast_elements_reach_every_open_stream_once(site: Any) -> None:
    async with FastStateClient(site()) as client, client.stream("Board") as one, client.stream("Board") as two:
        await client.call("Board/shout", {"text": "<b>hi</b>"})
        await client.call("Board/add")
        for stream in (one, two):
            await stream.until(lambda signals: signals.get("count") == 1)
            shouts = [f for f in stream.frames if f.selector == "#log"]
            assert [(f.html, f.mode) for f in shouts] == [("&lt;b&gt;hi&lt;/b&gt;", "append")]


async def test_old_broadcasts_are_not_repeated_to_a_new_tab(site: Any) -> None:
    async with FastStateClient(site()) as client:
        await client.call("Own/take")
        async with client.stream("Board"):
            await client.call("Board/shout")
            await client.call("Board/add")
            async with client.stream("Board") as late:
                await late.until(lambda signals: signals.get("count") == 1)
                with pytest.raises(TimeoutError):
                    while True:
                        await late.next(1.5)
                assert [frame for frame in late.frames if frame.selector == "#log"] == []


async def test_what_a_page_changed_before_its_stream_opened_is_sent_once_more(site: Any) -> None:
    async with FastStateClient(site()) as client:
        await client.call("Own/take")
        await client.call("Board/add")
        async with client.stream("Board") as stream:
            await stream.until(lambda signals: signals.get("count") == 1)
            stream.signals.clear()
            await stream.until(lambda signals: signals.get("count") == 1, 5)


async def test_an_answer_leaves_watched_states_to_the_stream(site: Any) -> None:
    async with FastStateClient(site()) as client, client.stream("Board") as stream:
        await stream.next()
        answer = await client.call("Board/add", headers={"faststate-live": "Board"})
        assert (answer.status, answer.body) == (204, b"")
        await stream.until(lambda signals: signals.get("count") == 1)
        answer = await client.call("Board/add", headers={"faststate-live": "undefined"})
        assert answer.signals == {"count": 2}
        answer = await client.call("Board/add", headers={"faststate-live": "Item:1,Own"})
        assert answer.signals == {"count": 3}


async def test_a_deleted_state_shows_its_defaults(site: Any) -> None:
    async with FastStateClient(site()) as client, client.stream("Board") as stream:
        await client.call("Board/tag", {"name": "a"})
        await client.call("Board/add", {"amount": 5})
        await stream.until(lambda signals: signals.get("count") == 5)
        await client.call("Board/drop")
        await stream.until(lambda signals: signals.get("count") == 0 and signals.get("tags") == {})
        await client.call("Board/add", {"amount": 2})
        await stream.until(lambda signals: signals.get("count") == 2)


async def test_a_change_from_outside_of_any_request_arrives(site: Any) -> None:
    app = site()
    async with FastStateClient(app) as client, client.stream("Board") as stream:
        await stream.next()
        async with app.faststate.transaction(Board) as board:
            board.count = 9
        await stream.until(lambda signals: signals.get("count") == 9)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ("", 400),
        ("Nothing", 400),
        ("Board,Nothing", 400),
        ("Item", 400),
        ("Item:", 400),
        ("Item:%00", 400),
        ("Item:" + "x" * 257, 400),
        (",".join(f"Item:{n}" for n in range(65)), 400),
        ("Own", 401),
        ("Board,Own", 401),
        ("Widget:left", 401),
        ("Personal", 401),
    ],
)
async def test_a_refused_stream_ends_the_retries_of_datastar(site: Any, states: str, status: int) -> None:
    app = site()
    async with FastStateClient(app) as client:
        async with client.stream(states) as refused:
            assert refused.status == 200
            assert refused.headers["content-type"] == "application/json"
            patch = json.loads(await refused.body())["_faststate"]
            assert patch["error"]["status"] == status
            assert patch["connected"] is False
        async with client.stream(states, datastar=False) as refused:
            assert refused.status == status
            assert refused.headers["content-type"] == "application/problem+json"
            assert json.loads(await refused.body())["status"] == status
        assert app.faststate.hub.stream_count == 0
        assert "set-cookie" not in refused.headers


async def test_a_forbidden_state_refuses_the_whole_stream(site: Any) -> None:
    class Secret(ReactiveState):
        """For some."""

        words: str = ""

    guarded = StateConfig(scope=StateScope.GLOBAL, permissions=("read",))
    app = wrapped((Board, GLOBAL), (Secret, guarded), authenticate=lambda connection: Identity("eve"))
    async with FastStateClient(app) as client:
        async with client.stream("Board", "Secret") as refused:
            assert json.loads(await refused.body())["_faststate"]["error"]["status"] == 403
        async with client.stream("Board", "Secret", datastar=False) as refused:
            assert refused.status == 403


async def test_too_many_streams_of_a_session_keep_their_status(site: Any) -> None:
    async with FastStateClient(site(max_streams_per_session=2)) as client:
        await client.call("Own/take")
        async with client.stream("Own"), client.stream("Own"):
            async with client.stream("Own") as third:
                assert third.status == 429
                assert int(third.headers["retry-after"]) > 0
            async with client.another().stream("Board") as other:
                assert other.status == 200
        async with client.stream("Own") as later:
            assert later.status == 200


async def test_streams_that_open_at_the_same_time_keep_to_the_limit(site: Any) -> None:
    async with FastStateClient(site(max_streams_per_session=3)) as client:
        await client.call("Own/take")
        release = asyncio.Event()

        async def tab() -> int:
            async with client.stream("Own") as stream:
                if stream.status == 200:
                    await release.wait()
                else:
                    await stream.body()
                return stream.status

        tabs = [asyncio.create_task(tab()) for _ in range(10)]
        async with asyncio.timeout(5):
            while sum(task.done() for task in tabs) < 7:
                await asyncio.sleep(0.01)
        release.set()
        statuses = sorted(await asyncio.gather(*tabs))
        assert statuses == [200] * 3 + [429] * 7


async def test_too_many_streams_of_all_are_told_to_come_back(site: Any) -> None:
    async with FastStateClient(site(max_streams=1)) as client, client.stream("Board"):  # noqa: SIM117
        async with client.another().stream("Board") as second:
            assert second.status == 503
            assert int(second.headers["retry-after"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_a_stream_is_got(site: Any, method: str) -> None:
    async with FastStateClient(site()) as client:
        page = await client.request(method, "/faststate/sse?states=Board")
        assert page.status == 405
        assert page.headers["allow"] == "GET, HEAD"


async def test_head_is_answered_without_a_stream(site: Any) -> None:
    app = site()
    async with FastStateClient(app) as client:
        page = await client.request("HEAD", "/faststate/sse?states=Board")
        assert (page.status, page.body) == (200, b"")
        assert app.faststate.hub.stream_count == 0


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["enter", "leave"])
async def test_streams_end_within_a_second_of_login_and_logout(site: Any, name: str) -> None:
    async with FastStateClient(site()) as client:
        await client.call("Own/take")
        other = client.another()
        await other.call("Own/take")
        async with client.stream("Own") as one, client.stream("Board") as two, other.stream("Own") as foreign:
            await client.call(f"Own/{name}")
            await one.until_end(1)
            await two.until_end(1)
            assert one.signals["_faststate"] == {"connected": False, "live": ""}
            assert one.retry_ms is not None
            assert one.retry_ms < 1000
            await other.call("Own/take")
            await foreign.until(lambda signals: signals.get("mine") == 2)


async def test_a_stream_opened_before_logout_brings_nothing_after_it(site: Any) -> None:
    async with FastStateClient(site()) as client:
        await client.call("Own/enter")
        thief = client.another()
        thief.cookies.update(client.cookies)
        async with thief.stream("Personal") as stream:
            await stream.until(lambda signals: "points" in signals)
            await client.call("Own/leave")
            await stream.until_end(1)
        for state in ("Personal", "Own"):
            async with thief.stream(state, datastar=False) as again:
                assert again.status == 401
        assert (await thief.call("Personal/score", datastar=False)).status == 401


async def test_a_lost_right_ends_a_stream_at_the_next_check(site: Any) -> None:
    """Whose right was taken away would go on reading for as long as his tab is open."""

    class Secret(ReactiveState):
        """For some."""

        words: str = ""

    rights = [Identity("eve", {"read"})]
    guarded = StateConfig(scope=StateScope.GLOBAL, permissions=("read",))
    app = wrapped((Secret, guarded), authenticate=lambda connection: rights[0], reauthenticate=0.2)
    async with FastStateClient(app) as client, client.stream("Secret") as stream:
        await stream.until(lambda signals: "words" in signals)
        await asyncio.sleep(0.5)
        assert not stream.is_ended
        rights[0] = Identity("eve")
        await stream.until_end(2)


class Guarded(ReactiveState):
    """For those who may read it."""

    words: str = ""


class Checks:
    """An `authenticate` that knows a reader, or raises what it is told to."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.identity = Identity("eve", {"read"})
        self.calls = 0

    def __call__(self, connection: Any) -> Identity:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.identity

    async def again(self, times: int) -> None:
        """Wait until it was asked again so often."""
        wanted = self.calls + times
        async with asyncio.timeout(10):
            while self.calls < wanted:
                await asyncio.sleep(0.02)

    def app(self, **settings: Any) -> Any:
        guarded = StateConfig(scope=StateScope.GLOBAL, permissions=("read",))
        return wrapped((Guarded, guarded), authenticate=self, reauthenticate=0.1, **settings)


@pytest.mark.parametrize("error", [RuntimeError("no answer"), HTTPException(503), asyncio.CancelledError()], ids=repr)
async def test_rights_are_checked_again_after_a_check_that_failed(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Who makes one check fail would go on reading for as long as his tab is open, whatever right he loses."""
    checks = Checks()
    async with FastStateClient(checks.app()) as client, client.stream("Guarded") as stream:
        await stream.until(lambda signals: "words" in signals)
        for _ in range(3):
            checks.error = error
            await checks.again(1)
            checks.error = None
            await checks.again(2)
        assert not stream.is_ended, "no three in a row"
        assert "whether a stream may still be watched" in caplog.text
        checks.identity = Identity("eve")
        await stream.until_end(5)


async def test_a_stream_whose_rights_cannot_be_checked_for_long_ends(caplog: pytest.LogCaptureFixture) -> None:
    checks = Checks()
    async with FastStateClient(checks.app()) as client, client.stream("Guarded") as stream:
        await stream.until(lambda signals: "words" in signals)
        checks.error = RuntimeError("no answer")
        await stream.until_end(5)
        assert stream.signals["_faststate"] == {"connected": False, "live": ""}
        assert caplog.text.count("RuntimeError: no answer") == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_plain_refusal_of_authenticate_ends_a_stream_and_its_retries(status: int) -> None:
    checks = Checks()
    async with FastStateClient(checks.app()) as client:
        async with client.stream("Guarded") as stream:
            await stream.until(lambda signals: "words" in signals)
            checks.error = HTTPException(status, "not you")
            await stream.until_end(5)
        async with client.stream("Guarded") as stream:
            assert (stream.status, stream.headers["content-type"]) == (200, "application/json")
            error = json.loads(await stream.body())["_faststate"]["error"]
            assert (error["status"], error["detail"]) == (status, "not you")
        async with client.stream("Guarded", datastar=False) as stream:
            assert stream.status == status


async def test_a_later_check_finds_what_outer_middlewares_left_for_the_first() -> None:
    seen: list[str] = []

    def who(connection: Any) -> Identity:
        seen.append(connection.session["name"] + connection.scope["tenant"])
        return Identity("eve", {"read"})

    guarded = StateConfig(scope=StateScope.GLOBAL, permissions=("read",))
    app = wrapped((Guarded, guarded), authenticate=who, reauthenticate=0.1)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "session": {"name": "eve"}, "tenant": "@acme"}, receive, send)

    async with FastStateClient(outer) as client, client.stream("Guarded") as stream:
        await stream.until(lambda signals: "words" in signals)
        async with asyncio.timeout(10):
            while len(seen) < 6:
                await asyncio.sleep(0.02)
        assert not stream.is_ended
    assert set(seen) == {"eve@acme"}


async def test_another_user_of_the_same_session_ends_a_users_stream(site: Any) -> None:
    users = [Identity("ada")]
    app = wrapped((Personal, USER), authenticate=lambda connection: users[0], reauthenticate=0.2)
    async with FastStateClient(app) as client, client.stream("Personal") as stream:
        await stream.until(lambda signals: "points" in signals)
        users[0] = Identity("bob")
        await stream.until_end(2)


async def test_a_stream_ends_by_its_age_and_comes_back_soon(site: Any) -> None:
    async with FastStateClient(site(max_stream_age=0.5)) as client, client.stream("Board") as stream:
        await stream.until_end(2)
        assert stream.retry_ms is not None
        assert 50 <= stream.retry_ms <= 500
        assert stream.signals["_faststate"] == {"connected": False, "live": ""}


async def test_silence_is_broken_by_heartbeats(site: Any) -> None:
    async with FastStateClient(site(heartbeat=0.1)) as client, client.stream("Board") as stream:
        await stream.next()
        with pytest.raises(TimeoutError):
            while True:
                await stream.next(0.6)
        assert stream._reader.comments >= 4


async def test_a_state_that_expires_lives_while_it_is_watched() -> None:
    config = StateConfig(scope=StateScope.GLOBAL, ttl=1)
    app = wrapped((Board, config))
    async with FastStateClient(app) as client:
        await client.call("Board/add")
        async with client.stream("Board") as stream:
            await stream.next()
            await asyncio.sleep(2.5)
            assert (await app.faststate.get(Board)).count == 1
        await asyncio.sleep(1.3)
        assert (await app.faststate.get(Board)).count == 0


async def test_nothing_is_left_of_a_thousand_streams(site: Any) -> None:
    app = site()
    async with FastStateClient(app) as client:
        before = len(asyncio.all_tasks())
        for _ in range(20):
            streams = [client.another().stream("Board", "Item:1") for _ in range(50)]
            await asyncio.gather(*(open_and_close(stream) for stream in streams))
        await asyncio.sleep(0)
        assert app.faststate.hub.streams == []
        assert app.faststate.hub.watched == []
        assert len(asyncio.all_tasks()) <= before + 1


async def open_and_close(opening: Any) -> None:
    async with opening as stream:
        await stream.next()
