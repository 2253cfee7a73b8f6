"""Canaries in every place that holds a secret: none of them is in a log, an answer, a text form, a number or a stream."""

import json
import logging
from typing import Any

import pytest
from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import (
    FastState,
    Html,
    Identity,
    Live,
    Private,
    ReactiveState,
    RequestContext,
    StateConfig,
    StateScope,
    event,
    fragment,
)
from faststate_asgi.testing import FastStateClient
from faststate_asgi.transports import postgres as postgres_transport
from faststate_asgi.transports import redis as redis_transport
from tests.hardening.wrapping import GLOBAL, wrapped

pytestmark = pytest.mark.anyio
KEY = "canary-key-" + "k" * 40
TOKEN = "canary-token-of-the-client"
PASSWORD = "canary-password-of-the-form"
FIELD = "canary-private-field"
EXCLUDED = "canary-excluded-field"
HIDDEN = "canary-underscore-field"
RAISED = "canary-text-of-an-exception"
CLICK = "canary-key-of-a-click"
STORE = "canary-password-of-the-store"
CANARIES = (KEY, TOKEN, PASSWORD, FIELD, EXCLUDED, HIDDEN, RAISED, CLICK, STORE)


class Vault(ReactiveState):
    """Holds a secret in each kind of field that is not for pages."""

    shown: int = 0
    names: list[str] = []
    token: Private[str] = FIELD
    more: Private[dict[str, str]] = {"a": FIELD}
    excluded: str = Field(default=EXCLUDED, exclude=True)
    _hidden: str = HIDDEN

    @fragment(on=("shown",))
    def box(self) -> Html:
        return Html(f'<p id="box">{self.shown}</p>')

    @event
    def add(self, password: str = "") -> None:
        self.shown += 1
        self.token = f"{FIELD}-{self.shown}"
        self.more = {"a": f"{FIELD}-{self.shown}"}

    @event
    def fail(self, password: str = "") -> None:
        raise RuntimeError(f"{RAISED} in INSERT INTO users")

    @event
    async def fail_later(self) -> Any:
        yield None
        raise ValueError(RAISED)

    @event
    def spoil(self) -> None:
        self.names = [RAISED, object()]  # type: ignore[list-item]  # no page can hold it

    @event
    def number(self, amount: int) -> None:
        self.shown += amount

    @event
    async def enter(self, context: RequestContext, password: str) -> None:
        await context.login("ada")


class Own(ReactiveState):
    """Belongs to a session."""

    count: int = 0

    @event
    def add(self) -> None:
        self.count += 1


def who(connection: HTTPConnection) -> Identity | None:
    return (
        Identity("ada", {"faststate.stats"}) if connection.headers.get("authorization") == f"Bearer {TOKEN}" else None
    )


async def page(request: Request) -> PlainTextResponse:
    vault = await Vault.aget(request)
    context = request.scope["faststate"]
    forms = (vault, vault.key, vault.model_dump(), vault.model_dump_json(), context, context.identity, vault.signals())
    return PlainTextResponse("\n".join([str(Live(vault)), *map(repr, forms), *map(str, forms)]))


async def broken(request: Request) -> PlainTextResponse:
    async with request.scope["faststate"].transaction(Vault) as vault:
        vault.names = object()
    return PlainTextResponse("never")


def leaked(*texts: str | bytes) -> set[str]:
    found = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in texts]
    return {canary for canary in CANARIES if any(canary in text for text in found)}


async def test_no_secret_is_in_anything_that_leaves_or_is_written_down(caplog: pytest.LogCaptureFixture) -> None:
    """Who reads answers, streams, logs or numbers would find passwords, keys, tokens and what fields keep private."""
    caplog.set_level(logging.DEBUG)
    app = wrapped(
        (Vault, GLOBAL),
        Own,
        app=Starlette(routes=[Route("/", page), Route("/broken", broken)]),
        secret_key=KEY,
        authenticate=lambda connection: (
            who(connection) or connection.scope["faststate"].login_identity
            if "faststate" in connection.scope
            else who(connection)
        ),
    )
    bearer = {"authorization": f"Bearer {TOKEN}"}
    written: list[str | bytes] = []
    async with FastStateClient(app) as client, client.stream("Vault") as stream:
        for number in range(150):
            name = ("add", "fail", "fail_later", "spoil", "number", "add")[number % 6]
            arguments = {"password": PASSWORD, "amount": PASSWORD, "token": PASSWORD}
            answer = await client.call(
                f"Vault/{name}", arguments, headers=bearer if number % 2 else {}, key=f"{CLICK}-{number}"
            )
            written += [answer.body, json.dumps(answer.headers)]
            answer = await client.call(f"Vault/{name}", arguments, headers=bearer, datastar=False)
            written += [answer.body, json.dumps(answer.headers)]
        await client.call("Own/add")
        await client.call("Vault/enter", {"password": PASSWORD})
        cookie = next(iter(client.cookies.values()))
        for path in ("/", "/faststate/stats", "/faststate/metrics", "/faststate/health", "/faststate/nothing"):
            answer = await client.get(path, headers=bearer)
            assert answer.status in (200, 404), (path, answer.text)
            written += [answer.body, json.dumps(answer.headers)]
        with pytest.raises(Exception, match=r"names|Vault") as caught:
            await client.get("/broken", headers=bearer)
        written.append(str(caught.value))
        await stream.until(lambda signals: signals["shown"] >= 100)
        written += ["\n".join(frame.lines) for frame in stream.frames]
        engine = app.faststate
        held = (engine, engine.settings, engine.cookie, engine.backends, app, engine.hub, engine.runtime, client)
        written += [repr(item) for item in held[:-1]]
        state = await engine.get(Vault)
        assert state.token.startswith(FIELD)  # the secrets are there, and are not what is shown
        written += [repr(state), str(state), f"{state!r}"]
    log = "\n".join(caplog.handler.format(record) for record in caplog.records)
    assert "Vault/fail" in log, "failures are written down"
    assert RAISED in log, "with their text, for those who run the site"
    assert leaked(*written) == set()
    assert leaked(log) == {RAISED}
    assert cookie not in log
    assert cookie.partition(".")[0] not in log + "".join(map(str, written))


async def test_the_address_of_a_store_shows_no_password(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads the log or the health of a site would have the password of its database."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(redis_transport, "CONFIRM_S", 0.3)
    monkeypatch.setattr(postgres_transport, "CONNECT_S", 0.3)
    shown: list[str] = []
    for url in (f"redis://:{STORE}@127.0.0.1:1/0", f"postgresql+asyncpg://u:{STORE}@127.0.0.1:1/x"):
        engine = FastState(store=url, secret_key=KEY, store_timeout=0.3)
        shown += [repr(engine), repr(engine.settings), str(engine.settings)]
        try:
            async with engine:
                shown.append(json.dumps(await engine.health()))
        except Exception as exc:
            shown += [str(exc), repr(exc)]
    assert leaked(*shown, caplog.text) == set()
    with pytest.raises(Exception) as caught:
        FastState(store=f"nonsense://u:{STORE}@host/x", secret_key=KEY)
    assert leaked(str(caught.value)) == set()


async def test_errors_tell_what_happened_and_nothing_else() -> None:
    """The text of an exception shows how the site is built, and often what it stores."""
    app = wrapped((Vault, StateConfig(scope=StateScope.GLOBAL)))
    async with FastStateClient(app) as client:
        for name in ("fail", "fail_later", "spoil"):
            answer = await client.call(f"Vault/{name}", datastar=False)
            assert RAISED not in answer.text
            if answer.status != 200:
                assert answer.status == 500
                assert answer.json()["detail"] == "Something went wrong on the server"
