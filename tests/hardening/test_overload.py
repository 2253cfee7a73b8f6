"""More events than can be served in time: the newest are told at once, the others are served."""

import asyncio
import time

import pytest

from faststate_asgi import ReactiveState, StateConfig, StateScope, event, mailboxes
from faststate_asgi.mailboxes import Line
from faststate_asgi.testing import FastStateClient
from tests.hardening.wrapping import wrapped

pytestmark = pytest.mark.anyio


class Busy(ReactiveState):
    """One state that everybody wants."""

    served: int = 0

    @event
    async def serve(self) -> None:
        """Take a while."""
        await asyncio.sleep(0.01)
        self.served += 1


async def test_the_newest_are_refused_before_they_begin_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mailboxes, "LATE_S", 0.3)
    app = wrapped((Busy, StateConfig(scope=StateScope.GLOBAL)))
    async with FastStateClient(app) as client:
        first = [asyncio.create_task(client.another().call(Busy.serve, datastar=False)) for _ in range(120)]
        while not any(task.done() for task in first[60:]):
            await asyncio.sleep(0.01)
        more = [asyncio.create_task(client.another().call(Busy.serve, datastar=False)) for _ in range(300)]
        answers = await asyncio.gather(*first, *more)
        refused = [answer for answer in answers if answer.status == 503]
        accepted = [answer for answer in answers if answer.status == 200]
        assert len(refused) + len(accepted) == len(answers)
        assert refused
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        health = await client.get("/faststate/health")
        assert (health.status, health.json()["status"]) == (200, "overloaded")
        async with client.stream("Busy") as stream:
            await stream.until(lambda signals: signals["served"] == len(accepted))


def test_a_line_tells_how_long_it_takes_by_what_it_has_just_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    line = Line()
    line.extend(range(2_000))  # type: ignore[arg-type]  # only their number counts
    assert line.wait_s() == 0, "nobody has been served yet"
    for _ in range(100):
        now += 0.1
        line.serve()
    assert line.wait_s() == pytest.approx(len(line) * 0.1, rel=0.1)
    for _ in range(400):
        now += 0.001
        line.serve()
    assert line.wait_s() < len(line) * 0.01, "it has become fast, and that counts"
