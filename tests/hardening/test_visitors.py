"""Visitors: those who only read leave nothing, and what belongs to one reaches no other."""

import asyncio
import gc
import random
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from faststate_asgi import Bound, ReactiveState, StateConfig, StateScope, event
from faststate_asgi.context import RequestContext
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import GLOBAL, RECORD, wrapped
from tests.services import site_environment

pytestmark = pytest.mark.anyio


class Board(ReactiveState):
    """Everybody reads it."""

    text: str = ""
    owner: str = ""

    @event
    def write(self, text: str) -> None:
        self.text = text


class Own(ReactiveState):
    """Belongs to a session."""

    note: Bound[str] = ""


class Diary(ReactiveState):
    """Belongs to a user."""

    owner: str = ""
    entry: int = 0

    @event
    def write(self, auth: str) -> None:
        self.entry += 1
        self.owner = f"{auth} {self.entry}"  # sent with each change


class Second(Diary):
    """Another one of the same kind."""

    @event
    def write(self, auth: str) -> None:
        self.entry += 1
        self.owner = f"{auth} {self.entry}"  # sent with each change


async def page(request: Request) -> PlainTextResponse:
    own = await Own.aget(request)
    board = await Board.aget(request)
    return PlainTextResponse(own.note + board.text)


def contexts() -> int:
    """Return how many contexts of requests there are."""
    return sum(isinstance(one, RequestContext) for one in gc.get_objects())


async def test_visitors_who_only_read_leave_nothing() -> None:
    """Requests that cost nothing would fill the store and the memory of the server."""
    app = wrapped((Board, GLOBAL), Own, (Diary, RECORD), app=Starlette(routes=[Route("/", page)]))

    async def visit(first: FastStateClient) -> None:
        client = first.another()
        assert (await client.get("/")).status == 200
        assert (await client.get("/")).status == 200
        async with client.stream("Own,Board,Diary:7") as stream:
            await stream.until(lambda signals: "text" in signals)
        for path in ("/faststate/health", "/faststate/stats", "/faststate/sse", "/faststate/events/Own/set_note"):
            await client.get(path)
        await client.call("Diary/write", datastar=False)  # refused: no record is named

    async with FastStateClient(app) as first:
        for _ in range(30):
            await visit(first)
        gc.collect()
        objects, tasks, kept = len(gc.get_objects()), len(asyncio.all_tasks()), contexts()
        for _ in range(5):
            await asyncio.gather(*(visit(first) for _ in range(40)))
        gc.collect()
        stats = await app.faststate.stats()
        assert (stats["stored_states"], stats["streams"], stats["watched_states"]) == (0, 0, 0)
        assert len(asyncio.all_tasks()) <= tasks + 1
        assert contexts() <= kept
        # Verified cookies are cached, a bounded number of small ones.
        assert len(gc.get_objects()) - objects < 5 * 200 * 3


async def test_what_belongs_to_one_user_reaches_no_other() -> None:
    """A change that is delivered to the wrong stream shows one user's data to another."""
    rng = random.Random(33)
    user = StateConfig(scope=StateScope.USER, namespace=True)
    app = wrapped((Diary, user), (Second, user), authenticate=lambda c: c.headers.get("x-who"))
    names = [f"user{number}" for number in range(50)]
    written: Counter[tuple[str, str]] = Counter()
    async with FastStateClient(app) as first, AsyncExitStack() as stack:
        streams = {
            name: [
                await stack.enter_async_context(first.another().stream("Diary,Second", headers={"x-who": name}))
                for _ in range(2)
            ]
            for name in names
        }
        for _ in range(1500):
            name, state = rng.choice(names), rng.choice(("Diary", "Second"))
            await first.another().call(f"{state}/write", headers={"x-who": name})
            written[name, state] += 1
        for name, opened in streams.items():
            for stream in opened:
                await stream.until(
                    lambda signals, name=name: all(
                        signals[state]["entry"] == written[name, state] for state in ("Diary", "Second")
                    )
                )
                owners = {
                    (frame.patch or {}).get(state, {}).get("owner", "").partition(" ")[0]
                    for frame in stream.frames
                    for state in ("Diary", "Second")
                }
                assert owners <= {"", name}


def test_the_sample_site_has_nothing_to_report(tmp_path: Path) -> None:
    """A site that is copied passes on its holes."""
    checked = subprocess.run(
        [sys.executable, "-m", "faststate_asgi", "check", "sample_site.main:app"],
        env=site_environment({"FASTSTATE_DEBUG": "true"}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.strip().endswith("states, 0 findings")
