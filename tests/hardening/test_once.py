"""A handler runs once for each action of a user, however often browser, client or proxy repeat the request."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import Context
from typing import Any, Literal

import pytest
from starlette.datastructures import UploadFile
from starlette.responses import Response

from faststate_asgi import (
    AuthorizationError,
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
EVENTS = "/faststate/events"


class Runs(ReactiveState):
    """Counts how often its handlers ran, outside of every state: what is rolled back counts too."""

    count: int = 0

    @event
    def thread(self, by: int = 1) -> Any:
        self._ran()
        return Html(f'<p id="a">{self.count}</p>')

    @event(inline=True)
    def inline(self, by: int = 1) -> None:
        self._ran()

    @event
    async def later(self, by: int = 1) -> None:
        await asyncio.sleep(0.01)
        self._ran()

    @event
    def steps(self, by: int = 1) -> Iterator[None]:
        self._ran()
        yield None
        self.count += 1

    @event
    async def async_steps(self, by: int = 1) -> AsyncIterator[None]:
        self._ran()
        yield None
        await asyncio.sleep(0.01)
        self.count += 1

    @event
    def fail(self, by: int = 1) -> None:
        self._ran()
        raise RuntimeError("broken")

    @event
    def fail_in_steps(self, by: int = 1) -> Iterator[None]:
        self._ran()
        yield None
        raise RuntimeError("broken")

    @event(timeout=0.05)
    async def too_slow(self, by: int = 1) -> None:
        self._ran()
        await asyncio.sleep(5)

    @event(timeout=0.05)
    def too_slow_in_thread(self, by: int = 1) -> None:
        self._ran()
        time.sleep(0.3)  # what a blocking driver does

    @event
    def respond(self, by: int = 1) -> Response:
        self._ran()
        return Response(str(self.count), status_code=201, headers={"x-own": "yes"})

    @event
    def much(self, by: int = 1) -> Any:
        self._ran()
        return Html(f'<p id="a">{"x" * 100_000}</p>')

    @event
    async def enter(self, context: RequestContext, by: int = 1) -> None:
        self._ran()
        await context.login("ada")

    def _ran(self) -> None:
        self.count += 1
        RAN.append(self.count)


RAN: list[int] = []
NAMES = sorted(Runs.__faststate_events__)


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


def with_session(client: FastStateClient) -> FastStateClient:
    """A browser that has the cookies of another one."""
    other = client.another()
    other.cookies.update(client.cookies)
    return other


@pytest.mark.parametrize("name", NAMES)
async def test_three_requests_of_one_click_run_once_one_after_the_other(name: str) -> None:
    async with FastStateClient(wrapped((Runs, GLOBAL))) as client:
        answers = [await client.call(f"Runs/{name}", key="click") for _ in range(3)]
    assert RAN == [1]
    assert answers[0].text == answers[1].text or name == "much"
    assert {(answer.status, answer.headers.get("x-own")) for answer in answers[1:]} <= {
        (answers[0].status, answers[0].headers.get("x-own")),
        (204, None) if name == "much" else (200, None),
    }


@pytest.mark.parametrize("name", NAMES)
async def test_three_requests_of_one_click_run_once_at_the_same_time(name: str) -> None:
    async with FastStateClient(wrapped((Runs, GLOBAL))) as client:
        answers = await asyncio.gather(*(client.call(f"Runs/{name}", key="click") for _ in range(3)))
    assert RAN == [1]
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize("name", NAMES)
async def test_a_returning_visitors_click_runs_once(name: str) -> None:
    async with FastStateClient(wrapped(Runs)) as client:
        await client.call("Runs/inline")
        RAN.clear()
        browsers = [with_session(client) for _ in range(3)]
        await browsers[0].call(f"Runs/{name}", key="click")
        await asyncio.gather(*(browser.call(f"Runs/{name}", key="click") for browser in browsers))
    assert RAN == [2]


@pytest.mark.parametrize("name", NAMES)
async def test_a_visitors_very_first_click_runs_once_and_makes_one_session(name: str) -> None:
    async with FastStateClient(wrapped(Runs)) as client:
        browsers = [client.another() for _ in range(3)]
        await asyncio.gather(*(browser.call(f"Runs/{name}", key="click") for browser in browsers))
        await client.another().call(f"Runs/{name}", key="click")
        assert RAN == [1]
        assert len({browser.cookies["faststate_session"] for browser in browsers}) == 1


@pytest.mark.parametrize("name", NAMES)
async def test_a_repetition_that_already_has_the_cookie_runs_nothing(name: str) -> None:
    async with FastStateClient(wrapped(Runs)) as client:
        await client.call(f"Runs/{name}", key="click")
        assert client.cookies
        await client.call(f"Runs/{name}", key="click")
        assert RAN == [1]


async def test_a_login_that_is_repeated_with_the_old_cookie_runs_once() -> None:
    async with FastStateClient(wrapped(Runs)) as client:
        await client.call("Runs/inline")
        late = with_session(client)
        RAN.clear()
        await client.call("Runs/enter", key="click")
        await late.call("Runs/enter", key="click")
    assert RAN == [2]


class Leaving(ReactiveState):
    """Has events that make the cookie of their repetition worthless."""

    count: int = 0

    @event
    async def enter(self, context: RequestContext) -> None:
        await context.login("ada")

    @event(requires_auth=True)
    async def leave(self, context: RequestContext, by: int = 1) -> str:
        RAN.append(by)
        await context.logout()
        await asyncio.sleep(0.01)
        return "gone"

    @event(requires_auth=True)
    async def leave_in_steps(self, context: RequestContext, by: int = 1) -> AsyncIterator[str]:
        RAN.append(by)
        await context.logout()
        await asyncio.sleep(0.01)
        yield "going"
        await asyncio.sleep(0.01)
        yield "gone"


@pytest.mark.parametrize("name", ["leave", "leave_in_steps"])
async def test_a_logout_that_is_repeated_while_it_runs_or_later_runs_once(name: str) -> None:
    async with FastStateClient(wrapped(Leaving)) as client:
        await client.call("Leaving/enter")
        browsers = [with_session(client) for _ in range(5)]

        async def again(browser: FastStateClient, by: int, pause_s: float) -> tuple[int, str]:
            await asyncio.sleep(pause_s)
            answer = await browser.call(f"Leaving/{name}", {"by": by}, key="click", datastar=False)
            return answer.status, answer.text

        requests = [(browsers[0], 1, 0.0), (browsers[1], 1, 0.005), (browsers[2], 2, 0.005)]
        first, second, other = await asyncio.gather(*(again(*request) for request in requests))
        assert first == second == await again(browsers[3], 1, 0)
        assert first[0] == 200
        assert "gone" in first[1]
        assert other[0] == (await again(browsers[4], 2, 0))[0] == 422, "another request under the same key"
    assert RAN == [1]


@pytest.mark.parametrize("name", ["thread", "later", "steps", "async_steps"])
async def test_another_body_under_the_same_key_is_refused(name: str) -> None:
    """Who reuses the key of a harmless click would hide another one behind its answer."""
    async with FastStateClient(wrapped((Runs, GLOBAL))) as client:
        await client.call(f"Runs/{name}", {"by": 1}, key="click")
        answer = await client.call(f"Runs/{name}", {"by": 2}, key="click")
        assert answer.error is not None
        assert answer.error["status"] == 422
        together = await asyncio.gather(
            client.call(f"Runs/{name}", {"by": 1}, key="second"),
            client.call(f"Runs/{name}", {"by": 2}, key="second"),
        )
        assert sorted(answer.error is not None for answer in together) == [False, True]
    assert len(RAN) == 2


async def test_a_form_that_is_sent_again_with_another_boundary_is_the_same_request() -> None:
    class Shelf(ReactiveState):
        """Counts what was uploaded."""

        count: int = 0

        @event
        def put(self, name: str, picture: UploadFile) -> None:
            self.count += 1

    def part(name: str, content: str, filename: str = "") -> str:
        file = f'; filename="{filename}"' if filename else ""
        return f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n{content}\r\n'

    form = [part("name", "a"), part("picture", "x" * 100_000, "x.png")]
    async with FastStateClient(wrapped((Shelf, GLOBAL))) as client:

        async def send(boundary: str, parts: list[str]) -> tuple[int, bytes]:
            body = "".join(f"--{boundary}\r\n{one}" for one in parts) + f"--{boundary}--\r\n"
            headers = {"content-type": f"multipart/form-data; boundary={boundary}", "idempotency-key": "click"}
            page = await client.request("POST", f"{EVENTS}/Shelf/put", headers=headers, body=body.encode())
            return page.status, page.body

        assert [await send(f"---{one}", form) for one in ("a", "bb", "ccc")] == [(200, ANSWER_OF_SHELF)] * 3
        others = [
            [part("name", "b"), form[1]],
            [form[0], part("picture", "x" * 100_000, "y.png")],
            [form[0], part("picture", "y" * 100_000, "x.png")],
            [*form, part("name", "a")],
            form[::-1],
        ]
        assert [(await send("a", other))[0] for other in others] == [422] * len(others)


ANSWER_OF_SHELF = b'event: datastar-patch-signals\ndata: signals {"count":1}\n\n'


async def test_a_repetition_of_an_answer_that_is_too_large_to_keep_gets_what_the_states_hold() -> None:
    size = 20_000

    class Notes(ReactiveState):
        """Holds much."""

        text: str = ""
        marks: dict[str, int] = {}

        @event
        def write(self, by: int = 1) -> None:
            self.text, self.marks = "x" * size, {"a": by}

        @event
        async def write_in_steps(self) -> AsyncIterator[None]:
            self.text, self.marks = "y" * size, {"b": 1}
            yield

        @event
        async def note(self) -> Response:
            return Response("x" * size, status_code=201)

        @fragment(on="text")
        def line(self) -> Any:
            return Html(f'<p id="line">{len(self.text)}</p>')

    for config in (GLOBAL, StateConfig()):
        async with FastStateClient(wrapped((Notes, config))) as client:
            await client.call("Notes/note")
            for name in ("write", "write_in_steps"):
                first = await client.call(f"Notes/{name}", key="click")
                again = await client.call(f"Notes/{name}", key="click")
                assert again.signals == first.signals
                assert len(first.signals["text"]) == size
                assert "20000</p>" in again.text
            assert 'signals {"marks":""}' in again.text, "keys that went since are gone in the page"
            live = await client.call("Notes/write", key="click", headers={"FastState-Live": "Notes"})
            assert (live.status, live.body) == (204, b""), "the stream has brought it"
            own = [await client.call("Notes/note", key="own") for _ in range(2)]
            assert [(answer.status, len(answer.body)) for answer in own] == [(201, size), (201, 0)]
    async with FastStateClient(wrapped(Notes)) as client:
        await client.call("Notes/write", key="click")
        new = await client.another().call("Notes/write", key="click")
        assert (new.status, "set-cookie" in new.headers) == (204, True), "it has not got its session yet"


async def test_another_record_under_the_same_key_is_refused() -> None:
    class Item(ReactiveState):
        """A record with its id in the path."""

        count: int = 0

        @event("/items/{record_id}/add")
        def add(self) -> None:
            self.count += 1

    async with FastStateClient(wrapped((Item, RECORD))) as client:
        assert (await client.call("items/1/add", key="click")).signals == {"Item": {"1": {"count": 1}}}
        other = await client.call("items/2/add", key="click")
        assert other.error is not None
        assert other.error["status"] == 422


async def test_the_same_key_for_another_event_or_session_is_another_action() -> None:
    async with FastStateClient(wrapped(Runs)) as client:
        await client.call("Runs/inline")
        other = client.another()
        await other.call("Runs/inline")
        RAN.clear()
        await client.call("Runs/thread", key="click")
        await client.call("Runs/later", key="click")
        await other.call("Runs/thread", key="click")
    assert RAN == [2, 3, 2]


async def test_each_click_without_a_key_runs() -> None:
    async with FastStateClient(wrapped((Runs, GLOBAL))) as client:
        for _ in range(3):
            await client.post(f"{EVENTS}/Runs/thread", json={})
    assert RAN == [1, 2, 3]


@pytest.mark.parametrize("key", ["k" * 65, "k" * 5000])
async def test_a_key_that_is_too_long_is_refused(key: str) -> None:
    async with FastStateClient(wrapped((Runs, GLOBAL))) as client:
        answer = await client.call("Runs/thread", key=key)
        assert answer.error is not None
        assert answer.error["status"] == 400
    assert RAN == []


async def test_a_repetition_of_a_timed_out_thread_gets_an_answer_at_once() -> None:
    async with FastStateClient(wrapped((Runs, GLOBAL))) as client:
        first = await client.call("Runs/too_slow_in_thread", key="click")
        async with asyncio.timeout(5):
            second = await client.call("Runs/too_slow_in_thread", key="click")
        assert first.error == second.error
        assert first.error is not None
        assert first.error["status"] == 504
    assert RAN == [1]


async def test_a_repetition_reads_along_with_a_running_generator() -> None:
    proceed = asyncio.Event()
    stepped = asyncio.Event()

    class Slow(ReactiveState):
        """Waits between its steps."""

        count: int = 0

        @event
        async def go(self) -> AsyncIterator[None]:
            self.count += 1
            yield None
            stepped.set()
            await proceed.wait()
            self.count += 1

    async with FastStateClient(wrapped((Slow, GLOBAL))) as client:
        first = asyncio.create_task(client.call("Slow/go", key="click"))
        await stepped.wait()
        second = asyncio.create_task(client.call("Slow/go", key="click"))
        await asyncio.sleep(0)
        proceed.set()
        assert (await first).text == (await second).text
        assert (await first).signals == {"count": 2}


class Cut(ReactiveState):
    """Its generators are cut off: by themselves, or as a server does whose time to stop is over."""

    count: int = 0

    @event
    async def in_the_middle(self, whose: Literal["own", "server's"]) -> AsyncIterator[None]:
        RAN.append(1)
        self.count += 1
        yield None
        await self._cut_off(whose)

    @event
    async def at_once(self, whose: Literal["own", "server's"]) -> AsyncIterator[None]:
        RAN.append(1)
        await self._cut_off(whose)
        yield None

    async def _cut_off(self, whose: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        if whose == "own":
            task.cancel()
        else:
            CUT_OFF[0]()
        await asyncio.sleep(10)


CUT_OFF: list[Any] = []


@pytest.mark.parametrize("datastar", [True, False])
@pytest.mark.parametrize("whose", ["own", "server's"])
@pytest.mark.parametrize("name", ["in_the_middle", "at_once"])
async def test_a_generator_that_is_cut_off_says_so_then_and_later(name: str, whose: str, datastar: bool) -> None:
    """Whoever took half of the steps for all of them would not make the rest."""
    app = wrapped((Cut, GLOBAL))
    async with FastStateClient(app) as client:
        CUT_OFF[:] = [app.faststate.runtime.give_up]
        answers = [
            await client.call(f"Cut/{name}", whose=whose, key="click", datastar=datastar),
            await client.call(f"Cut/{name}", whose=whose, key="click", datastar=datastar),
        ]
        for answer in answers:
            assert answer.error is not None
            assert (answer.error["status"], "interrupted" in answer.error["detail"]) == (409, True)
        assert answers[0].body == answers[1].body
        assert (await app.faststate.get(Cut)).count == (name == "in_the_middle")
    assert RAN == [1]


async def test_a_generator_that_the_end_of_the_server_finds_before_its_turn_may_be_tried_again() -> None:
    app = wrapped((Cut, GLOBAL))
    async with FastStateClient(app) as client:
        async with app.faststate.transaction(Cut):
            call = client.call("Cut/in_the_middle", whose="own", key="click", datastar=False)
            waiting = asyncio.create_task(call, context=Context())  # or it would be a turn inside a turn
            async with asyncio.timeout(10):
                while app.faststate.runtime.turns.mailboxes.waiting < 1:
                    await asyncio.sleep(0.01)
            app.faststate.runtime.give_up()
            refused = await waiting
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert not RAN
        assert (await client.call("Cut/in_the_middle", whose="own", key="click")).error is not None
    assert RAN == [1]


async def test_refusals_are_not_remembered() -> None:
    class Guarded(ReactiveState):
        """Refuses for as long as it is told to."""

        count: int = 0

        @event(permissions="write")
        def add(self, by: int = 1) -> None:
            self.count += by

        @event
        def refuse(self) -> None:
            if REFUSING:
                raise AuthorizationError("Not now")
            self.count += 1

        @event(rate_limit="1/m")
        def rarely(self) -> None:
            self.count += 1

    REFUSING = [True]  # noqa: N806 - a switch for the closure above
    rights: list[Identity | None] = [None]
    app = wrapped((Guarded, GLOBAL), authenticate=lambda connection: rights[0], max_body=200)
    async with FastStateClient(app) as client:
        for identity, status in [(None, 401), (Identity("ada"), 403), (Identity("ada", {"write"}), 200)]:
            rights[0] = identity
            answer = await client.call("Guarded/add", key="click", datastar=False)
            assert answer.status == status
        bad = await client.call("Guarded/add", {"by": "x"}, key="other", datastar=False)
        assert bad.status == 422
        assert (await client.call("Guarded/add", {"by": "y" * 300}, key="third", datastar=False)).status == 413
        assert (await client.call("Guarded/add", {"by": 1}, key="third", datastar=False)).status == 200
        assert (await client.call("Guarded/add", {"by": 1}, key="other", datastar=False)).status == 200
        assert (await client.call("Guarded/refuse", key="click", datastar=False)).status == 403
        REFUSING.clear()
        assert (await client.call("Guarded/refuse", key="click", datastar=False)).status == 200
        assert (await client.call("Guarded/rarely", key="a", datastar=False)).status == 200
        limited = await client.call("Guarded/rarely", key="b", datastar=False)
        assert limited.status == 429
        assert int(limited.headers["retry-after"]) > 0


async def test_an_event_that_never_got_its_turn_may_be_tried_again() -> None:
    proceed = asyncio.Event()
    begun = asyncio.Event()

    class Busy(ReactiveState):
        """Has one handler that keeps the turn."""

        count: int = 0

        @event
        async def hold(self) -> None:
            begun.set()
            await proceed.wait()

        @event(timeout=0.05)
        async def add(self) -> None:
            self.count += 1

    async with FastStateClient(wrapped((Busy, GLOBAL))) as client:
        holder = asyncio.create_task(client.call("Busy/hold"))
        await begun.wait()
        refused = await client.call("Busy/add", key="click", datastar=False)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        proceed.set()
        await holder
        assert (await client.call("Busy/add", key="click")).signals == {"count": 1}


async def test_answers_are_forgotten_after_their_time() -> None:
    async with FastStateClient(wrapped((Runs, GLOBAL), idempotency_ttl=0.05)) as client:
        await client.call("Runs/inline", key="click")
        await asyncio.sleep(0.06)
        await client.call("Runs/inline", key="click")
    assert RAN == [1, 2]


async def test_a_client_that_leaves_interrupts_nothing() -> None:
    proceed = asyncio.Event()
    begun = asyncio.Event()

    class Long(ReactiveState):
        """Takes its time."""

        count: int = 0

        @event
        async def work(self) -> None:
            begun.set()
            await proceed.wait()
            self.count += 1

    app = wrapped((Long, GLOBAL))
    async with FastStateClient(app) as client:
        request = asyncio.create_task(client.call("Long/work", key="click"))
        await begun.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        proceed.set()
        assert (await client.call("Long/work", key="click")).signals == {"count": 1}
        assert (await app.faststate.get(Long)).count == 1


async def test_requests_without_a_cookie_share_one_rate() -> None:
    class Limited(ReactiveState):
        """Two calls in a minute."""

        count: int = 0

        @event(rate_limit="2/m")
        def add(self) -> None:
            self.count += 1

    async with FastStateClient(wrapped((Limited, StateConfig(scope=StateScope.SESSION)))) as client:
        statuses = [(await client.another().call("Limited/add", datastar=False)).status for _ in range(4)]
    assert statuses == [200, 200, 429, 429]


async def test_a_repetition_of_a_limited_event_gets_the_first_answer() -> None:
    class Rare(ReactiveState):
        """One call in a minute."""

        count: int = 0

        @event(rate_limit="1/m")
        async def add(self, by: int = 1) -> None:
            await asyncio.sleep(0.01)
            self.count += by

        @event(rate_limit="1/m")
        async def steps(self, by: int = 1) -> AsyncIterator[None]:
            self.count += by
            yield

        @event(rate_limit="1/m")
        async def refuse(self, by: int = 1) -> None:
            raise AuthorizationError("Wrong")

    async with FastStateClient(wrapped((Rare, GLOBAL))) as client:
        for name in ("add", "steps"):
            together = await asyncio.gather(*(client.call(f"Rare/{name}", key="click") for _ in range(3)))
            late = await client.call(f"Rare/{name}", key="click")
            assert len({answer.text for answer in (*together, late)}) == 1
            assert late.error is None
            assert [
                (await client.call(f"Rare/{name}", {"by": by}, key=key, datastar=False)).status
                for by, key in [(2, "click"), (1, "other"), (1, None)]
            ] == [422, 429, 429]
        # What is not remembered is no repetition: who tries passwords under one key is limited all the same.
        tries = [await client.call("Rare/refuse", {"by": by}, key="click", datastar=False) for by in range(3)]
        assert [answer.status for answer in tries] == [403, 429, 429]
