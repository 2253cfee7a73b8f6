"""Cookies, logins and logouts: what a copied, planted, old or forged one is worth, which is nothing."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from faststate_asgi import (
    BadRequestError,
    ConfigurationError,
    Identity,
    ReactiveState,
    RequestContext,
    StateConfig,
    StateScope,
    event,
    requires_auth,
)
from faststate_asgi.identity import SessionCookie, Ticket, logouts_of, mark_of, new_ticket
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, SECRET, wrapped

pytestmark = pytest.mark.anyio
USER = StateConfig(scope=StateScope.USER)
COMPONENT = StateConfig(scope=StateScope.COMPONENT, namespace=True)
DAY_S = 86400.0


class Basket(ReactiveState):
    """Belongs to a session; its events let people in and out."""

    count: int = 0

    @event
    def add(self, amount: int = 1) -> None:
        self.count += amount

    @event
    async def enter(self, context: RequestContext, name: str = "ada") -> None:
        await context.login(name, permissions="read", roles="guest")

    @event
    async def leave(self, context: RequestContext, everywhere: bool = False) -> None:
        await context.logout(everywhere=everywhere)

    @event
    async def leave_late(self, context: RequestContext) -> Any:
        yield None
        await context.logout()


class Mine(ReactiveState):
    """Belongs to a user."""

    points: int = 0

    @event
    def score(self) -> None:
        self.points += 1


class Widget(ReactiveState):
    """Belongs to a part of a page."""

    value: int = 0

    @event
    def add(self) -> None:
        self.value += 1


def site(**settings: Any) -> Any:
    return wrapped(Basket, (Mine, USER), (Widget, COMPONENT), **settings)


def cookie_of(app: Any, ticket: Ticket) -> str:
    return f"faststate_session={app.faststate.cookie.value(ticket)}"


def aged(days: float, *, renewed: float | None = None) -> Ticket:
    """Return the ticket of a session that began some days ago, and was last renewed some days ago."""
    now_s = float(int(time.time()))
    since = now_s - (days if renewed is None else renewed) * DAY_S
    return replace(new_ticket(), issued_at_s=now_s - days * DAY_S, renewed_at_s=since)


# -- lifetime ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ticket", "is_good", "is_renewed"),
    [
        (aged(0), True, False),
        (aged(13.9), True, True),
        (aged(14.1), False, True),
        (aged(89.9, renewed=0), True, False),
        (aged(90.1, renewed=0), False, True),
        (aged(-1), False, True),
        (aged(-300 / DAY_S), True, False),
    ],
    ids=["new", "idle for days", "idle too long", "old but used", "too old", "from tomorrow", "another clock"],
)
async def test_a_session_ends_when_it_was_idle_or_has_lasted_too_long(
    ticket: Ticket, is_good: bool, is_renewed: bool
) -> None:
    """Who finds an old cookie, in a backup or a discarded computer, would be logged in as its owner."""
    app = site()
    async with FastStateClient(app) as client:
        async with app.faststate.transaction(Basket, session_id=ticket.session_id) as basket:
            basket.count = 40
        answer = await client.another().call("Basket/add", headers={"cookie": cookie_of(app, ticket)})
        assert answer.signals == {"count": 41 if is_good else 1}
        assert ("set-cookie" in answer.headers) is is_renewed
        if is_good and is_renewed:
            value = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
            renewed = app.faststate.cookie.read(f"faststate_session={value}".encode(), False)
            assert renewed.session_id == ticket.session_id
            assert renewed.issued_at_s == ticket.issued_at_s


async def test_a_stream_ends_with_its_session(slack: float) -> None:
    """Who keeps a stream open would read on for as long as the connection holds, long after the session ended."""
    app = site(session_idle=2.0)
    async with FastStateClient(app) as client:
        ticket = replace(new_ticket(), renewed_at_s=float(int(time.time())) - 1)
        async with client.stream("Basket", headers={"cookie": cookie_of(app, ticket)}) as stream:
            await stream.until(lambda signals: "count" in signals)
            await stream.until_end(2.5 * slack)
            assert stream.is_ended


async def test_a_stream_ends_with_its_identity(slack: float) -> None:
    """Whoever was let in until a certain time would go on reading after it."""
    until = datetime.now(timezone.utc) + timedelta(seconds=1)
    app = site(authenticate=lambda connection: Identity("ada", expires_at=until))
    async with FastStateClient(app) as client, client.stream("Mine") as stream:
        await stream.until(lambda signals: "points" in signals)
        await stream.until_end(2.5 * slack)
        assert (await client.call("Mine/score", datastar=False)).status == 401


# -- keys --------------------------------------------------------------------------------------------------------------

OLD, NEW, NEWEST = ("o" * 40, "n" * 40, "x" * 40)


async def test_a_cookie_of_an_older_key_is_good_and_signed_again_and_that_of_a_removed_key_is_worthless() -> None:
    """Whoever got hold of a key could forge every session; it has to be possible to take a key out of use."""
    async with FastStateClient(site(secret_key=OLD)) as client:
        await client.call("Basket/add")
        first = dict(client.cookies)
    app = site(secret_key=[NEW, OLD])
    async with FastStateClient(app) as client:
        client.cookies.update(first)
        answer = await client.call("Basket/add", {"amount": 2})
        assert "set-cookie" in answer.headers
        second = dict(client.cookies)
        assert second != first
        assert "set-cookie" not in (await client.call("Basket/add")).headers
        assert (await client.call("Basket/add")).signals == {"count": 4}
    app = site(secret_key=[NEWEST, NEW])
    async with FastStateClient(app) as client:
        assert "set-cookie" in (await client.call("Basket/add", headers={"cookie": _joined(first)})).headers
        reader = app.faststate.cookie
        assert reader.read(_joined(second).encode(), False) is not None
        assert reader.read(_joined(first).encode(), False) is None


def _joined(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


@pytest.mark.parametrize("key", ["", "short", "x" * 31, ["n" * 40, "short"], []])
def test_a_missing_or_short_key_does_not_start(key: Any) -> None:
    """A key that can be guessed forges the session of everybody."""
    with pytest.raises(ConfigurationError) as caught:
        site(secret_key=key)
    assert "secret_key" in str(caught.value)
    assert "short" not in str(caught.value)


def test_what_is_printed_of_a_ticket_is_no_cookie() -> None:
    """Who reads a log or a traceback would have somebody's session."""
    ticket = new_ticket()
    assert ticket.token not in repr(ticket)
    assert ticket.session_id != ticket.token
    assert SECRET not in repr(SessionCookie([SECRET], "x", idle_s=1, max_age_s=1))


def test_ten_thousand_sessions_are_all_different() -> None:
    """A constant or guessable id would be shared by all who come without one, or guessed."""
    tickets = [new_ticket() for _ in range(10_000)]
    assert len({ticket.token for ticket in tickets}) == len({ticket.session_id for ticket in tickets}) == 10_000
    assert min(len(ticket.token) for ticket in tickets) >= 43


async def test_ids_that_begin_alike_are_different() -> None:
    """Where long ids are cut off, whoever chooses one that begins like another's would get the other's state."""
    async with FastStateClient(site()) as client:
        for tail in ("a", "b"):
            answer = await client.call("Widget/add", ids={"component_id": "x" * 250 + tail})
            assert list(answer.signals["Widget"].values()) == [{"value": 1}]
        assert (await client.call("Widget/add", ids={"component_id": "x" * 257}, datastar=False)).status == 400


# -- who makes a session -----------------------------------------------------------------------------------------------


async def test_a_cold_load_of_many_requests_makes_one_session() -> None:
    """The last of several cookies would win, and what the visitor did under the first would be lost or another's."""

    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str((await Basket.aget(request)).count))

    app = wrapped(Basket, app=Starlette(routes=[Route("/{rest:path}", page)]))
    async with FastStateClient(app) as first:
        for _ in range(100):
            client = first.another()
            navigation = {"sec-fetch-mode": "navigate", "sec-fetch-site": "none"}
            asset = {"sec-fetch-mode": "no-cors", "sec-fetch-site": "same-origin"}
            answers = await asyncio.gather(
                client.get("/", headers=navigation),
                *(client.request("GET", f"/asset{number}", headers=asset) for number in range(4)),
                client.request("GET", "/faststate/sse?states=Basket", headers={"sec-fetch-site": "same-origin"}),
            )
            assert [("set-cookie" in answer.headers) for answer in answers] == [True] + [False] * 5
            assert answers[-1].status == 401
        assert (await app.faststate.stats())["stored_states"] == 0


def by_token(connection: HTTPConnection) -> Identity | None:
    """Know two users by a bearer token or an API key."""
    given = connection.headers.get("authorization", "").removeprefix("Bearer ") or connection.headers.get("x-api-key")
    return {"token-of-ada": Identity("ada"), "token-of-bob": Identity("bob")}.get(given or "")


ADA = {"authorization": "Bearer token-of-ada"}
BOB = {"x-api-key": "token-of-bob"}


async def test_programs_with_a_token_get_no_cookie_and_one_session_for_each_user() -> None:
    """A cookie would outlive the token that was taken away, and lie about in the files of scripts."""
    app = site(authenticate=by_token)
    async with FastStateClient(app) as first:
        for headers, count in ((ADA, 1), (ADA, 2), (BOB, 1)):
            client = first.another()
            answer = await client.call("Basket/add", headers=headers, datastar=False)
            assert (answer.status, answer.signals) == (200, {"count": count})
            assert client.cookies == {}
            assert (await client.call("Mine/score", headers=headers, datastar=False)).signals == {"points": count}
            async with client.stream("Basket,Mine", headers=headers, datastar=False) as stream:
                await stream.until(lambda signals, count=count: signals["count"] == signals["points"] == count)
        wrong = {"authorization": "Bearer wrong"}
        assert (await first.another().call("Mine/score", headers=wrong, datastar=False)).status == 401


async def test_a_browser_that_also_proves_who_it_is_keeps_its_cookie() -> None:
    """Basic authentication of a proxy in front of the site must not mix the sessions of all who know its password."""
    app = site(authenticate=lambda connection: "team" if "authorization" in connection.headers else None)
    async with FastStateClient(app) as first:
        for _ in range(2):
            client = first.another()
            answer = await client.call("Basket/add", headers={"authorization": "Basic dGVhbTp4"})
            assert answer.signals == {"count": 1}
            assert "faststate_session" in client.cookies


async def test_the_key_of_anothers_click_brings_nobody_anothers_answer() -> None:
    """Who learns an idempotency key, from a log say, would read the answer that somebody else got."""
    app = site(authenticate=by_token)
    async with FastStateClient(app) as first:
        for headers in (ADA, BOB):
            for _ in range(2):
                client = first.another()
                answer = await client.call("Mine/score", headers=headers, key="the-same", datastar=False)
                assert answer.signals == {"points": 1}
                as_browser = {**headers, "sec-fetch-site": "same-origin"}
                answer = await client.call("Mine/score", headers=as_browser, key="another", datastar=False)
                assert answer.signals == {"points": 2}
        assert [(await app.faststate.get(Mine, user_id=name)).points for name in ("ada", "bob")] == [2, 2]


# -- logging out -------------------------------------------------------------------------------------------------------


async def test_logging_out_everywhere_ends_every_login_and_stream_of_the_user(slack: float) -> None:
    """Whoever has a copy of one of the user's cookies would stay logged in after the user noticed."""
    app = site()
    async with FastStateClient(app) as first:
        tabs = [first.another() for _ in range(4)]
        for tab in tabs:
            await tab.call("Basket/enter")
        thief, bob = first.another(), first.another()
        thief.cookies.update(tabs[0].cookies)
        await bob.call("Basket/enter", {"name": "bob"})
        async with tabs[1].stream("Mine") as stream, thief.stream("Mine") as stolen, bob.stream("Mine") as other:
            for opened in (stream, stolen, other):
                await opened.until(lambda signals: "points" in signals)
            answer = await tabs[3].call("Basket/leave", {"everywhere": True})
            assert answer.error is None
            assert tabs[3].cookies == {}
            await stream.until_end(1 * slack)
            await stolen.until_end(1 * slack)
            assert not other.is_ended
        for tab in (*tabs, thief):
            assert (await tab.call("Mine/score", datastar=False)).status == 401
            async with tab.stream("Mine", datastar=False) as refused:
                assert refused.status == 401
        assert (await bob.call("Mine/score")).signals == {"points": 1}
        await tabs[0].call("Basket/enter")
        assert (await tabs[0].call("Mine/score")).signals == {"points": 1}


async def test_a_logout_that_was_not_heard_of_counts_with_the_next_check(slack: float) -> None:
    """Messages between processes can be lost; a stream that missed one would go on for as long as its tab is open."""
    app = site(reauthenticate=0.5)
    async with FastStateClient(app) as client:
        await client.call("Basket/enter")
        async with client.stream("Mine") as stream:
            await stream.until(lambda signals: "points" in signals)
            # What another process writes, without the message that it sends.
            await app.faststate.records.put_records({logouts_of(mark_of("ada")): (b"another", 3600.0)})
            assert (await client.call("Mine/score", datastar=False)).status == 401
            await stream.until_end(2 * slack)


async def test_an_administrator_logs_somebody_out() -> None:
    """Whose account was closed would go on with the cookie that he has."""
    app = site()
    async with FastStateClient(app) as client:
        await client.call("Basket/enter")
        old = dict(client.cookies)
        await app.faststate.logout_user("ada")
        await asyncio.to_thread(app.faststate.sync.logout_user, "bob")
        assert (await client.call("Mine/score", datastar=False)).status == 401
        await client.call("Basket/enter")
        assert (await client.call("Mine/score")).signals == {"points": 1}
        client.cookies.clear()
        client.cookies.update(old)
        assert (await client.call("Mine/score", datastar=False)).status == 401


async def test_a_cookie_sent_again_after_logout_is_refused_each_time() -> None:
    """Who copied the cookie would be logged in again by sending it once more."""
    app = site()
    async with FastStateClient(app) as client:
        await client.call("Basket/enter")
        await client.call("Basket/add")
        copied = dict(client.cookies)
        await client.call("Basket/leave")
        for _ in range(100):
            thief = client.another()
            thief.cookies.update(copied)
            answer = await thief.call("Mine/score", datastar=False)
            assert answer.status == 401


@pytest.mark.parametrize("name", ["leave_late"])
async def test_logging_out_after_the_first_yield_is_an_error(name: str) -> None:
    """The cookie could not be deleted any more, and the visitor would believe to be logged out."""
    async with FastStateClient(site()) as client:
        await client.call("Basket/enter")
        answer = await client.call(f"Basket/{name}")
        assert answer.error is not None
        assert answer.error["status"] == 500
        assert (await client.call("Mine/score")).signals == {"points": 1}


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "\ud800"])
async def test_a_user_id_that_can_be_no_key_cannot_log_in(name: str) -> None:
    """A name made for it could otherwise stand for another user's key, or break every page of its owner."""

    async def enter(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises((BadRequestError, ValueError)):
            await scope["faststate"].login(name)
        await PlainTextResponse("tried")(scope, receive, send)

    async with FastStateClient(wrapped(Basket, app=enter)) as client:
        assert (await client.get("/")).text == "tried"
        assert client.cookies == {}


@pytest.mark.parametrize("user_id", [None, True, False, [1], {"id": 1}, b"ann"], ids=repr)
async def test_what_is_nobodys_id_cannot_log_in(user_id: Any) -> None:
    """A look-up that found nobody would otherwise log its caller in as the user "None", and all of them as one."""

    async def enter(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ValueError, match="user"):
            await scope["faststate"].login(user_id)
        await PlainTextResponse("tried")(scope, receive, send)

    async with FastStateClient(wrapped(Basket, app=enter)) as client:
        assert (await client.get("/")).text == "tried"
        assert client.cookies == {}


def test_logging_in_on_a_websocket_is_an_error() -> None:
    """No cookie could be set, and the visitor would believe to be logged in."""

    async def enter(websocket: WebSocket) -> None:
        await websocket.accept()
        with pytest.raises(RuntimeError, match="WebSocket"):
            await websocket.scope["faststate"].login("ann")
        await websocket.send_text(str(websocket.scope["faststate"].user))
        await websocket.close()

    app: Any = wrapped(Basket, app=Starlette(routes=[WebSocketRoute("/", enter)]))
    with TestClient(app) as client, client.websocket_connect("/") as websocket:
        assert websocket.receive_text() == "None"


# -- what caches keep --------------------------------------------------------------------------------------------------


async def test_what_a_session_saw_is_kept_by_no_cache() -> None:
    """A proxy would show one visitor's page to the next, or hand out the cookie that came with it."""

    async def page(request: Request) -> PlainTextResponse:
        headers = {"cache-control": request.query_params["own"]} if "own" in request.query_params else {}
        await Basket.aget(request)
        return PlainTextResponse("yours", headers=headers)

    async def other(request: Request) -> PlainTextResponse:
        return PlainTextResponse("everybody's")

    app = wrapped(Basket, (Mine, USER), app=Starlette(routes=[Route("/mine", page), Route("/all", other)]))
    async with FastStateClient(app) as client:
        for answer in (await client.get("/mine"), await client.get("/mine")):
            assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Cookie", "no-store")
        assert (await client.get("/mine?own=private")).headers["cache-control"] == "private"
        assert "cache-control" not in (await client.get("/all")).headers
        refused = await client.call("Mine/score", datastar=False)
        assert refused.status == 401
        for answer in (
            await client.call("Basket/add"),
            await client.call("Basket/add", {"amount": 0}),
            await client.call("Basket/enter"),
            refused,
        ):
            assert "no-store" in answer.headers["cache-control"]


# -- guards of plain routes ----------------------------------------------------------------------------------------------


async def test_a_guard_that_a_route_cannot_have_lets_nobody_pass() -> None:
    """A page marked for its owner only would be open to everybody who is logged in."""

    @requires_auth(owner_only=True)
    async def owned(request: Request) -> PlainTextResponse:
        return PlainTextResponse("secret")

    @requires_auth(owner_only=True)
    def owned_too(request: Request) -> PlainTextResponse:
        return PlainTextResponse("secret")

    @requires_auth()
    def parts() -> Any:
        yield "secret"

    async def generator(request: Request) -> PlainTextResponse:
        await request.scope["faststate"].resolve()
        return PlainTextResponse("".join(parts()))

    routes = [Route("/a", owned), Route("/b", owned_too), Route("/c", generator)]
    app = wrapped(Basket, app=Starlette(routes=routes), authenticate=by_token)
    async with FastStateClient(app) as client:
        for path in ("/a", "/b"):
            with pytest.raises(ConfigurationError, match="owner_only"):
                await client.request("GET", path, headers=ADA)
        assert (await client.request("GET", "/c")).status == 401
        assert (await client.request("GET", "/c", headers=ADA)).text == "secret"


def test_two_guards_that_would_weaken_each_other_are_refused() -> None:
    """Who has either permission would pass where the two were meant to be needed together."""
    with pytest.raises(ConfigurationError, match="not in both"):

        class Twice(ReactiveState):
            """Names permissions in two places."""

            @event(permissions="read")
            @requires_auth(permissions="write")
            def do(self) -> None: ...


async def test_the_cookie_names_no_user(caplog: pytest.LogCaptureFixture) -> None:
    """Who sees a cookie would learn who is logged in, and with which rights."""
    async with FastStateClient(site()) as client:
        await client.call("Basket/enter", {"name": "ada-lovelace"})
        value = client.cookies["faststate_session"]
        for text in ("ada", "lovelace", "read", "guest"):
            assert text not in json.dumps(value)
        assert value not in caplog.text


async def test_a_guarded_route_of_a_global_state_is_guarded_too() -> None:
    """A page would show by its route what its state refuses by its event."""

    @requires_auth(permissions="read")
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("secret")

    app = wrapped((Widget, GLOBAL), app=Starlette(routes=[Route("/", page)]), authenticate=by_token)
    async with FastStateClient(app) as client:
        assert (await client.request("GET", "/")).status == 401
        assert (await client.request("GET", "/", headers=ADA)).status == 403


async def test_logging_out_ends_the_streams_of_a_login_that_others_keep(slack: float) -> None:
    """A tab that was left open would show what its user may see long after the user logged out."""
    app = site(authenticate=by_token)
    async with FastStateClient(app) as client:
        as_browser = {"x-api-key": "token-of-ada", "sec-fetch-site": "same-origin"}
        async with client.stream("Mine", headers=as_browser) as stream:
            await stream.until(lambda signals: "points" in signals)
            assert (await client.another().call("Basket/leave", headers=as_browser)).error is None
            await stream.until_end(1 * slack)
