"""Random events, tabs, cuts, faults, restarts and expiries against a model: the store and every page agree with it."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from pydantic import Field

from faststate_asgi import BadRequestError, Bound, ReactiveState, StateConfig, StateScope, event
from faststate_asgi.patches import merge
from faststate_asgi.testing import FastStateClient, Faults, LiveStream
from tests.hardening.wrapping import wrapped
from tests.services import RedisServer

T = TypeVar("T")
SESSIONS = ("ann", "bob")
TTL_S = 1000.0
DEADLINE_S = 5.0


class Board(ReactiveState):
    """What everybody changes."""

    count: int = 0
    words: dict[str, str] = Field(default_factory=dict)
    title: Bound[str] = ""

    @event
    async def bump(self) -> None:
        """Add one."""
        self.count += 1

    @event
    def put(self, key: str, value: str) -> None:
        """Set a word, in a thread."""
        self.words = {**self.words, key: value}

    @event(inline=True)
    def drop(self, key: str) -> None:
        """Remove a word."""
        self.words = {name: value for name, value in self.words.items() if name != key}

    @event
    def fail(self) -> None:
        """Change something and refuse."""
        self.count += 100
        raise BadRequestError("never")

    @event
    async def twice(self) -> Any:
        """Add one, twice."""
        self.count += 1
        yield
        self.count += 1


class Own(Board):
    """The same for each session, and gone after a time without a change."""


CONFIGS = {
    Board: StateConfig(scope=StateScope.GLOBAL, namespace=True, ttl=TTL_S),
    Own: StateConfig(scope=StateScope.SESSION, namespace=True, ttl=TTL_S),
}


@dataclass
class Values:
    """What the model knows of one state."""

    count: int = 0
    words: dict[str, str] = field(default_factory=dict)
    title: str = ""


class Tab:
    """One page: its signals outlive its streams, and its count never goes back unless the model's did."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.signals: dict[str, Any] = {}
        self.last_id: str | None = None
        self.stream: LiveStream | None = None
        self.stack = AsyncExitStack()
        self.counts: dict[str, int] = {}

    async def open(self, client: FastStateClient) -> None:
        """Open the stream as Datastar does, with what was seen last."""
        self.stream = await self.stack.enter_async_context(client.stream("Board", "Own", last_event_id=self.last_id))
        assert self.stream.status == 200

    async def close(self) -> None:
        """Leave."""
        self.stream = None
        await self.stack.aclose()

    async def until_equal(self, wanted: dict[str, Any], *, is_checked: bool = True) -> None:
        """Read until the page shows what is wanted; unless told otherwise, no count goes back meanwhile."""
        assert self.stream is not None, "a tab that is read is open"
        async with asyncio.timeout(DEADLINE_S):
            while {name: self.signals.get(name) for name in wanted} != wanted:
                frame = await self.stream.next(DEADLINE_S)
                self.last_id = frame.id or self.last_id
                if frame.patch is not None:
                    merge(self.signals, frame.patch)
                for name in wanted if is_checked else ():
                    self._check_order(name)

    def _check_order(self, name: str) -> None:
        count = self.signals.get(name, {}).get("count", 0)
        assert count >= self.counts.get(name, 0), f"{name} went back from {self.counts[name]} to {count}"
        self.counts[name] = count


class Machine(RuleBasedStateMachine):
    """Two processes on one store, or one in memory; two sessions; any number of tabs."""

    def __init__(self, store: str, empty: Callable[[], object]) -> None:
        super().__init__()
        empty()
        self.store = store
        self.runner = asyncio.Runner()
        self.keys = itertools.count()
        self.board, self.own = Values(), {name: Values() for name in SESSIONS}
        self.tabs: list[Tab] = []
        self.clients: list[FastStateClient] = []
        self.faults: list[Faults] = []
        self.cookies: dict[str, dict[str, str]] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the machine's loop."""
        return self.runner.run(work)

    @property
    def is_shared(self) -> bool:
        """Whether there are two processes, which outlive each other."""
        return not self.store.startswith("memory")

    # -- processes ---------------------------------------------------------------------------------------------------

    async def _start(self) -> tuple[FastStateClient, Faults]:
        app = wrapped(*CONFIGS.items(), store=self.store, debug=True, resync_interval=0.3)
        faults = Faults(app)
        return await FastStateClient(app).__aenter__(), faults

    @initialize()
    def start(self) -> None:
        """Start the processes, and give both sessions their cookies."""

        async def work() -> None:
            for _ in range(2 if self.is_shared else 1):
                client, faults = await self._start()
                self.clients.append(client)
                self.faults.append(faults)
            for name in SESSIONS:
                visitor = self.clients[0].another()
                await visitor.call("Own/bump", {}, key=f"first {name}")
                self.cookies[name] = dict(visitor.cookies)
                self.own[name].count += 1

        self.do(work())

    def client(self, session: str, process: int) -> FastStateClient:
        """Return a session's browser at a process."""
        browser = self.clients[process % len(self.clients)].another()
        browser.cookies = dict(self.cookies[session])
        return browser

    # -- events ------------------------------------------------------------------------------------------------------

    def click(self, session: str, process: int, path: str, data: dict[str, Any] | None = None) -> int:
        """Send a click until it is acknowledged, at one process after the other; return its status."""
        key = f"click {next(self.keys)}"

        async def work() -> int:
            for attempt in range(30):
                browser = self.client(session, process + attempt)
                answer = await browser.call(path, data or {}, key=key, datastar=False)
                if answer.status < 500 and answer.status != 409:
                    return answer.status
            raise AssertionError(f"{path} was never acknowledged: {answer.text}")

        return self.do(work())

    def values(self, session: str, name: str) -> Values:
        """Return the model of a state."""
        return self.board if name == "Board" else self.own[session]

    who = st.sampled_from(SESSIONS)
    which = st.sampled_from(["Board", "Own"])
    where = st.integers(0, 1)
    word = st.sampled_from(["a", "b", "it's $x"])

    @rule(session=who, process=where, name=which, times=st.integers(1, 4))
    def bump(self, session: str, process: int, name: str, times: int) -> None:
        """Add one, several times."""
        for _ in range(times):
            assert self.click(session, process, f"{name}/bump") in (200, 204)
            self.values(session, name).count += 1

    @rule(session=who, process=where, name=which, key=word, value=word)
    def put(self, session: str, process: int, name: str, key: str, value: str) -> None:
        """Set a word."""
        self.click(session, process, f"{name}/put", {"key": key, "value": value})
        self.values(session, name).words[key] = value

    @rule(session=who, process=where, name=which, key=word)
    def drop(self, session: str, process: int, name: str, key: str) -> None:
        """Remove a word, which may not be there."""
        self.click(session, process, f"{name}/drop", {"key": key})
        self.values(session, name).words.pop(key, None)

    @rule(session=who, process=where, name=which, title=word)
    def write(self, session: str, process: int, name: str, title: str) -> None:
        """Set the bound field."""
        self.click(session, process, f"{name}/set_title", {"title": title})
        self.values(session, name).title = title

    @rule(session=who, process=where, name=which)
    def fail(self, session: str, process: int, name: str) -> None:
        """An event that raises changes nothing."""
        assert self.click(session, process, f"{name}/fail") == 400

    @rule(session=who, process=where, name=which)
    def repeat(self, session: str, process: int, name: str) -> None:
        """A click that is sent three times, also at the other process, counts once."""

        async def work() -> None:
            key = f"repeat {next(self.keys)}"
            answers = [
                await self.client(session, process + number).call(f"{name}/bump", {}, key=key) for number in range(3)
            ]
            assert len({(answer.status, answer.body) for answer in answers}) == 1

        self.clear()
        self.do(work())
        self.values(session, name).count += 1

    @rule(session=who, process=where, name=which)
    def at_once(self, session: str, process: int, name: str) -> None:
        """Five clicks at the same moment all count."""

        async def work() -> None:
            answers = await asyncio.gather(
                *(
                    self.client(session, process + number).call(f"{name}/bump", {}, key=f"{number} {next(self.keys)}")
                    for number in range(5)
                )
            )
            assert {answer.status for answer in answers} <= {200, 204}
            assert [answer.error for answer in answers if answer.error] == []

        self.clear()
        self.do(work())
        self.values(session, name).count += 5

    @rule(session=who, process=where, name=which)
    def generator(self, session: str, process: int, name: str) -> None:
        """A generator counts at both of its steps, and once if it is repeated."""

        async def work() -> None:
            key = f"generator {next(self.keys)}"
            for number in range(2):
                await self.client(session, process + number).call(f"{name}/twice", {}, key=key)

        self.clear()
        self.do(work())
        self.values(session, name).count += 2

    # -- tabs --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.tabs) < 6)
    @rule(session=who, process=where)
    def open_tab(self, session: str, process: int) -> None:
        """Open a page."""
        self.tabs.append(Tab(session))
        self.do(self.tabs[-1].open(self.client(session, process)))

    @precondition(lambda self: self.tabs)
    @rule(number=st.integers(0, 5), process=where)
    def reconnect(self, number: int, process: int) -> None:
        """Cut a page's stream, and open it again at any process with the last id that it saw."""
        tab = self.tabs[number % len(self.tabs)]

        async def work() -> None:
            await tab.close()
            await tab.open(self.client(tab.session, process))

        self.do(work())

    @precondition(lambda self: self.tabs)
    @rule(number=st.integers(0, 5), last_id=st.sampled_from(["", "0", "f" * 16, "\u00e4", "x" * 500]))
    def forge(self, number: int, last_id: str) -> None:
        """Come back with an id that nobody gave out."""
        self.tabs[number % len(self.tabs)].last_id = last_id
        self.reconnect(number, number)

    @precondition(lambda self: self.tabs)
    @rule(number=st.integers(0, 5))
    def close_tab(self, number: int) -> None:
        """Close a page."""
        self.do(self.tabs.pop(number % len(self.tabs)).close())

    # -- faults ------------------------------------------------------------------------------------------------------

    @rule(process=where, call=st.sampled_from(["acquire", "commit", "commit, only its reply", "recall"]))
    def break_store(self, process: int, call: str) -> None:
        """The next such call fails, or its reply is lost."""
        method, _, rest = call.partition(", ")
        if rest and not self.is_shared:
            return  # no reply gets lost inside a process, so nobody compares versions there
        self.faults[process % len(self.faults)].fail(method, after=bool(rest))

    @rule(process=where)
    def break_messages(self, process: int) -> None:
        """Half of the news is lost, some comes late, twice and out of order."""
        self.faults[process % len(self.faults)].messages(lost=0.5, repeated=0.3, delay=0.02)

    @rule()
    def clear(self) -> None:
        """All works again."""
        for faults in self.faults:
            faults.clear()

    @precondition(lambda self: self.is_shared)
    @rule(process=where)
    def restart(self, process: int) -> None:
        """Restart one process; its tabs come back at the other one."""
        self.clear()

        async def work() -> None:
            old = self.clients[process]
            for tab in self.tabs:
                await tab.close()
            await old.__aexit__(None, None, None)
            self.clients[process], self.faults[process] = await self._start()
            for tab in self.tabs:
                await tab.open(self.client(tab.session, 1 - process))

        self.do(work())

    @precondition(lambda self: not self.is_shared)
    @rule()
    def expire(self) -> None:
        """Nobody changes anything for a long time; what is watched stays."""
        watched = {"Board"} | {tab.session for tab in self.tabs} if self.tabs else set()
        if watched:
            return  # who watches keeps alive, in his own time
        self.faults[0].move_clock(TTL_S + 1)
        self.board, self.own = Values(), {name: Values() for name in SESSIONS}

    @precondition(lambda self: self.clients)
    @rule(name=who)
    def delete(self, name: str) -> None:
        """Delete everybody's state from outside of any request: pages show the defaults."""
        self.agree()  # so that no tab has older frames still to read
        engine = self.faults[-1].engine

        async def work() -> None:
            await engine.delete(Board)

        self.do(work())
        self.board = Values()
        for tab in self.tabs:
            tab.counts["Board"] = 0
            self.do(tab.until_equal({"Board": vars(self.board)}, is_checked=False))

    # -- what must be true -------------------------------------------------------------------------------------------

    @rule()
    def agree(self) -> None:
        """The store and every page hold what the model holds."""
        if not self.clients:
            return
        self.clear()

        async def work() -> None:
            for tab in self.tabs:
                await tab.until_equal({"Board": vars(self.board), "Own": vars(self.own[tab.session])})
            for number, client in enumerate(self.clients):
                for name in SESSIONS:
                    async with self.client(name, number).stream("Board", "Own") as stream:
                        await stream.until(lambda signals, name=name: signals["Board"] == vars(self.board))
                        assert stream.signals["Own"] == vars(self.own[name]), client

        self.do(work())

    def teardown(self) -> None:
        """Check once more, and stop everything."""

        async def work() -> None:
            for tab in self.tabs:
                await tab.close()
            for client in self.clients:
                await client.__aexit__(None, None, None)

        try:
            self.agree()
        finally:
            self.do(work())
            self.runner.close()


SIZES = [(15, 30), pytest.param((80, 60), marks=[pytest.mark.full, pytest.mark.timeout(1800)])]


def run(store: str, size: tuple[int, int], empty: Callable[[], object] = lambda: None) -> None:
    """Run the machine so many times, so many steps each; the same ones every time."""
    examples, steps = size
    run_state_machine_as_test(
        lambda: Machine(store, empty),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # what fails is long enough to read, and finding a shorter one takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("size", SIZES)
def test_in_memory_store_and_pages_agree_with_the_model(size: tuple[int, int]) -> None:
    run("memory:", size)


@pytest.mark.redis
@pytest.mark.parametrize("size", SIZES)
def test_on_redis_two_processes_and_their_pages_agree_with_the_model(
    redis_server: RedisServer, size: tuple[int, int]
) -> None:
    run(redis_server.url, size, lambda: redis_server.command("FLUSHALL"))
