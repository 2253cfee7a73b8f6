"""First steps: install, define a state, register it, show it in a page and press its buttons."""

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from fasthtml.common import H1, Button, Div, Main, P, Span

from faststate_asgi import (
    ConfigurationError,
    FastStateMiddleware,
    Live,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    datastar_script,
    event,
    state_registry,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
DATASTAR = "https://cdn.jsdelivr.net/gh/starfederation/datastar@v1.0.2/bundles/datastar.js"


class CounterState(ReactiveState):
    """A counter with a message and one event on a path of its own."""

    count: int = 0
    message: str = "Welcome to FastState!"

    @event
    def increment(self, amount: int = 1) -> None:
        """Add to the count."""
        self.count += amount

    @event
    def reset(self) -> None:
        """Start again."""
        self.count = 0
        self.message = "Counter reset!"

    @event("/custom-endpoint")
    def custom_action(self, text: str) -> None:
        """Say something."""
        self.message = f"Custom: {text}"


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """The counter's page."""
    registry.register(CounterState, StateConfig(scope=StateScope.SESSION))
    app, rt = new_app(hdrs=(datastar_script(),))

    @rt("/")
    def index(counter: CounterState) -> Any:
        return Main(
            Live(counter),
            H1("Count: ", Span(counter.count, data_text=CounterState.signal.count), id="count"),
            P(counter.message, data_text=CounterState.signal.message, id="message"),
            Button("Increment", **{"data-on:click": CounterState.increment(1)}),
            Button("Add 5", **{"data-on:click": CounterState.increment(5)}),
            Button("Reset", **{"data-on:click": CounterState.reset()}),
            Div(id="updates"),
        )

    return wrap(app)


@pytest.mark.parametrize("module", ["fasthtml.common", "datastar_py", "sqlmodel", "starlette", "anyio"])
def test_what_the_package_builds_on_can_be_imported(module: str) -> None:
    assert importlib.import_module(module).__name__ == module


def test_the_distribution_asks_for_python_fasthtml_by_its_right_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {re.split(r"[^A-Za-z0-9-]", line, maxsplit=1)[0] for line in project["dependencies"]}
    extra = {re.split(r"[^A-Za-z0-9-]", line, maxsplit=1)[0] for line in project["optional-dependencies"]["fasthtml"]}
    assert project["name"] == "faststate-asgi"
    assert {"starlette", "datastar-py", "sqlmodel", "anyio"} <= base
    assert extra == {"python-fasthtml"}


async def test_wrapping_a_new_fasthtml_app_is_the_whole_setup(new_app: Any, wrap: Any) -> None:
    app, rt = new_app()

    @rt("/")
    def index(req: Any = None) -> Any:
        return P("hello")

    @rt("/context")
    def context(req) -> Any:  # type: ignore[no-untyped-def]
        return P(type(req.scope["faststate"]).__name__)

    async with FastStateClient(wrap(app)) as client:
        assert "<p>hello</p>" in (await client.get("/")).text
        assert "<p>RequestContext</p>" in (await client.get("/context")).text


def test_the_default_registry_is_a_registry() -> None:
    assert isinstance(state_registry, StateRegistry)


async def test_the_events_of_a_first_state_run(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        assert (await client.call(CounterState.increment)).signals == {"count": 1}
        assert (await client.call(CounterState.increment, amount=5)).signals == {"count": 6}
        assert (await client.call(CounterState.reset)).signals == {"count": 0, "message": "Counter reset!"}


async def test_a_custom_path_replaces_state_and_method(site: FastStateMiddleware) -> None:
    async with FastStateClient(site) as client:
        answer = await client.post(
            "/faststate/events/custom-endpoint", json={"text": "hi"}, headers={"Datastar-Request": "true"}
        )
        assert answer.status == 200
        assert '"message":"Custom: hi"' in answer.text
        assert (await client.call("CounterState/custom_action", {"text": "hi"})).status == 404
    assert CounterState.custom_action("hi").startswith(
        '@post(\'/faststate/events/custom-endpoint\', {payload: {"text": "hi"}'
    )


def test_a_registered_class_is_a_state_type(registry: StateRegistry) -> None:
    assert not registry.is_state_type(CounterState)
    registry.register(CounterState, StateConfig(scope=StateScope.SESSION))
    assert registry.is_state_type(CounterState)


async def test_the_first_page_shows_the_state_and_seeds_its_signals(site: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(site) as client:
        page = read_page(await client.get("/"))
    assert page.one("h1").text == "Count: 0"
    assert page.one("p", id="message").text == "Welcome to FastState!"
    assert page.signals == {"count": 0, "message": "Welcome to FastState!"}
    assert page.one("span", data_text="$count").text == "0"


async def test_the_buttons_of_the_first_page_work(site: FastStateMiddleware, read_page: Any, press: Any) -> None:
    async with FastStateClient(site) as client:
        page = read_page(await client.get("/"))
        assert (await press(client, page.button("Increment")["data-on:click"])).signals == {"count": 1}
        assert (await press(client, page.button("Add 5")["data-on:click"])).signals == {"count": 6}
        assert read_page(await client.get("/")).one("h1").text == "Count: 6"
        await press(client, page.button("Reset")["data-on:click"])
        page = read_page(await client.get("/"))
    assert page.one("h1").text == "Count: 0"
    assert page.one("p", id="message").text == "Counter reset!"


async def test_data_of_a_request_never_fills_an_injected_state(site: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(site) as client:
        page = read_page(await client.get("/?count=99&message=forged", headers={"count": "99"}))
    assert page.signals == {"count": 0, "message": "Welcome to FastState!"}


async def test_a_page_loads_the_pinned_datastar_module(site: FastStateMiddleware, read_page: Any) -> None:
    async with FastStateClient(site) as client:
        page = read_page(await client.get("/"))
    assert page.one("script", src=DATASTAR)["type"] == "module"


async def test_a_page_opens_the_stream_of_its_states_and_the_event_answers(
    site: FastStateMiddleware, read_page: Any
) -> None:
    async with FastStateClient(site) as client:
        page = read_page(await client.get("/"))
        assert any(
            "/faststate/sse?states=CounterState" in e["data-init"] for e in page.elements if "data-init" in e.attributes
        )
        answer = await client.post(
            "/faststate/events/CounterState/increment",
            json={"amount": 2},
            headers={"Datastar-Request": "true"},
        )
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.filterwarnings("ignore:`counter` has no type annotation:UserWarning")
async def test_a_parameter_without_annotation_is_no_state(new_app: Any, wrap: Any) -> None:
    app, rt = new_app()

    @rt("/")
    def index(counter) -> Any:  # type: ignore[no-untyped-def]
        return P(repr(counter))

    async with FastStateClient(wrap(app)) as client:
        assert "<p>None</p>" in (await client.get("/?counter=5")).text


async def test_a_forgotten_middleware_is_named_in_the_error(new_app: Any) -> None:
    app, rt = new_app()

    @rt("/")
    def index(counter: CounterState) -> Any:
        return P(counter.count)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        with pytest.raises(ConfigurationError, match="FastStateMiddleware"):
            await client.get("/")
