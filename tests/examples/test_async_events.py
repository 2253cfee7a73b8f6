"""Events that take their time: a job with progress, and an event that reads another state."""

import asyncio
import ipaddress
from typing import Annotated, Any
from urllib.parse import urlsplit

import pytest
from pydantic import AfterValidator, Field
from starlette.responses import JSONResponse

from faststate_asgi import FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, StateScope, event
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


def public_address(url: str) -> str:
    """Accept https addresses of named hosts outside of our own network only."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" or "." not in host or host.endswith((".internal", ".local")):
        raise ValueError("only public https addresses can be read")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return url
    raise ValueError("addresses are written with a host name")


class DataSource:
    """The outside world: what ``download`` gives, and when."""

    def __init__(self) -> None:
        self.rows = [1, 2, 3, 4]
        self.asked: list[str] = []
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def download(self, url: str) -> list[int]:
        """Answer when the test allows it."""
        self.asked.append(url)
        self.was_asked.set()
        await self.may_answer.wait()
        return self.rows


source: DataSource


class AsyncDataProcessor(ReactiveState):
    """A job whose progress can be watched."""

    status: str = "idle"
    progress: float = 0.0
    result: dict[str, Any] | None = None

    @event
    async def process_data(self, data_url: Annotated[str, AfterValidator(public_address)]) -> Any:
        """Download, work through the rows, and show each step."""
        self.status, self.progress, self.result = "downloading", 0.0, None
        yield
        rows = await source.download(data_url)
        self.status, self.progress = "processing", 0.3
        yield
        total = 0
        for index, row in enumerate(rows):
            total += row
            self.progress = round(0.3 + 0.7 * (index + 1) / len(rows), 3)
            yield
        self.status, self.progress = "completed", 1.0
        self.result = {"items": len(rows), "total": total}


class UserProfile(ReactiveState):
    """Who a user is."""

    name: str = ""


class CompositeState(ReactiveState):
    """A state that keeps a copy of another one's data."""

    user_data: dict[str, Any] = Field(default_factory=dict)

    @event
    def sync_user_data(self, profile: UserProfile, auth: str | None) -> None:
        """Copy the caller's own profile."""
        self.user_data = {"user": auth, "name": profile.name}


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any) -> FastStateMiddleware:
    """A page that tells how far the job is, and one that has nothing to do with it."""
    global source
    source = DataSource()
    registry.register(AsyncDataProcessor)
    registry.register(UserProfile, StateConfig(scope=StateScope.USER))
    registry.register(CompositeState, StateConfig(requires_auth=True))
    app, rt = new_app()

    @rt("/job")
    def job(processor: AsyncDataProcessor) -> Any:
        return JSONResponse(processor.signals())

    @rt("/ping")
    def ping() -> str:
        return "pong"

    return wrap(app, authenticate=header_identity)


ADDRESS = "https://data.example.org/rows.json"


async def test_a_job_streams_its_status_and_progress(site: FastStateMiddleware, patches: Any) -> None:
    source.may_answer.set()
    async with FastStateClient(site) as client:
        answer = await client.call(AsyncDataProcessor.process_data, ADDRESS)
        stored = (await client.get("/job")).json()
    steps = patches(answer)
    assert [step["status"] for step in steps if "status" in step] == [
        "downloading",
        "processing",
        "completed",
    ]
    assert [step["progress"] for step in steps if "progress" in step][-5:] == [0.3, 0.475, 0.65, 0.825, 1.0]
    assert stored == {"status": "completed", "progress": 1.0, "result": {"items": 4, "total": 10}}
    assert source.asked == [ADDRESS]


async def test_a_job_without_rows_completes(site: FastStateMiddleware) -> None:
    source.may_answer.set()
    source.rows = []
    async with FastStateClient(site) as client:
        answer = await client.call(AsyncDataProcessor.process_data, ADDRESS)
    assert answer.signals == {"status": "completed", "progress": 1.0, "result": {"items": 0, "total": 0}}


async def test_while_a_job_waits_its_status_is_seen_and_other_pages_are_served(
    site: FastStateMiddleware,
) -> None:
    async with FastStateClient(site) as client:
        await client.get("/job")
        running = asyncio.create_task(client.call(AsyncDataProcessor.process_data, ADDRESS))
        await asyncio.wait_for(source.was_asked.wait(), 5)
        assert "pong" in (await client.get("/ping")).text
        assert (await client.get("/job")).json()["status"] == "downloading"
        assert not running.done()
        source.may_answer.set()
        answer = await asyncio.wait_for(running, 5)
    assert answer.signals["status"] == "completed"


@pytest.mark.parametrize(
    "url",
    [
        "http://data.example.org/rows.json",
        "https://127.0.0.1/rows",
        "https://[::1]/rows",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/rows",
        "https://vault.internal/rows",
        "file:///etc/passwd",
        "",
    ],
)
async def test_an_internal_address_is_refused_before_anything_is_read(site: FastStateMiddleware, url: str) -> None:
    async with FastStateClient(site) as client:
        answer = await client.call(AsyncDataProcessor.process_data, url)
        assert (await client.get("/job")).json()["status"] == "idle"
    assert answer.error["status"] == 422
    assert "data_url" in answer.error["fields"]
    assert source.asked == []


async def test_an_event_reads_the_profile_of_its_caller_and_of_nobody_else(
    site: FastStateMiddleware, as_user: Any
) -> None:
    async with FastStateClient(site) as client:
        for user in ("alice", "bob"):
            async with site.faststate.transaction(UserProfile, user_id=user) as profile:
                profile.name = user.title()
        forged = {"auth": "bob", "profile": {"name": "Mallory"}, "user_id": "bob"}
        answer = await client.call(
            "CompositeState/sync_user_data", forged, ids={"auth": "bob"}, headers=as_user("alice")
        )
        anonymous = await client.call("CompositeState/sync_user_data", forged)
    assert answer.signals == {"user_data": {"user": "alice", "name": "Alice"}}
    assert anonymous.error["status"] == 401


def test_injected_parameters_are_no_part_of_an_action() -> None:
    assert "{payload: {}, " in CompositeState.sync_user_data()
