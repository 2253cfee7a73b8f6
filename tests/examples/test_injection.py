"""Injection without patching: FastHTML stays as it is, and apps without FastHTML get their states too."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from faststate_asgi import FastStateMiddleware, ReactiveState, StateConfig, StateRegistry, event, inject
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class Counter(ReactiveState):
    """A counter."""

    count: int = 0

    @event
    def increment(self, amount: int = 1) -> None:
        """Add to the count."""
        self.count += amount


class Vault(ReactiveState):
    """Something for those who may."""

    gold: int = 100


UNPATCHED = """
import inspect, sys
import fasthtml, fasthtml.core, fasthtml.common, fasthtml.fastapp, starlette.applications, starlette.routing

def snapshot():
    modules = [m for n, m in sys.modules.items() if n.split(".")[0] in ("fasthtml", "starlette") and m]
    classes = {v for m in modules for v in vars(m).values() if inspect.isclass(v)}
    found = {(m.__name__, k): id(v) for m in modules for k, v in vars(m).items() if k != "__builtins__"}
    ours = {c for c in classes if c.__module__.split(".")[0] in ("fasthtml", "starlette")}
    members = [(c, k, v) for c in ours for k, v in vars(c).items() if not k.startswith("__")]
    return found | {(c.__module__, c.__qualname__, k): id(v) for c, k, v in members}

before = snapshot()
import faststate_asgi
app, rt = fasthtml.common.fast_app(secret_key="x" * 32)
registry = faststate_asgi.StateRegistry()
wrapped = faststate_asgi.FastStateMiddleware(app, secret_key="x" * 32, registry=registry)
after = snapshot()
changed = [name for name, value in before.items() if after.get(name) != value]
assert len(before) > 500, len(before)
assert not changed, changed
"""

WITHOUT_FASTHTML = """
import sys
for name in ("fasthtml", "fasthtml.common", "fasthtml.core", "fastcore", "fastcore.xml"):
    sys.modules[name] = None
import anyio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from faststate_asgi import FastStateMiddleware, Live, ReactiveState, event
from faststate_asgi.testing import FastStateClient

class Counter(ReactiveState):
    count: int = 0

    @event
    def increment(self, amount: int = 1) -> str:
        self.count += amount
        return "done"

async def home(request):
    counter = await Counter.aget(request)
    return PlainTextResponse(f"{counter.count} {Live(counter)}")

async def main():
    app = Starlette(routes=[Route("/", home)])
    wrapped = FastStateMiddleware(app, secret_key="x" * 32)
    async with FastStateClient(wrapped) as client:
        answer = await client.call(Counter.increment, 4)
        assert answer.signals == {"count": 4}, answer.text
        text = (await client.get("/")).text
        assert text.startswith("4 <div") and "/faststate/sse?states=Counter" in text, text

anyio.run(main)
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with warnings as errors."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        timeout=60,
        check=False,
    )


def test_importing_and_wrapping_change_no_attribute_of_fasthtml_or_starlette(tmp_path: Path) -> None:
    done = run(UNPATCHED, tmp_path)
    assert done.returncode == 0, done.stderr


def test_without_fasthtml_everything_else_works(tmp_path: Path) -> None:
    done = run(WITHOUT_FASTHTML, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def starlette_site(wrap: Any, registry: StateRegistry, header_identity: Any) -> FastStateMiddleware:
    """Starlette routes with injected states."""
    registry.register(Counter)
    registry.register(Vault, StateConfig(permissions=["vault.open"]))

    @inject
    async def page(request: Request, counter: Counter, vault: Vault | None) -> JSONResponse:
        return JSONResponse([request.url.path, counter.count, vault and vault.gold])

    @inject
    def page_in_thread(request: Request, vault: Vault) -> JSONResponse:
        return JSONResponse(vault.gold)

    routes = [Route("/page", page), Route("/vault", page_in_thread)]
    return wrap(Starlette(routes=routes), authenticate=header_identity)


async def test_starlette_routes_get_their_states_through_the_scope(
    starlette_site: FastStateMiddleware, as_user: Any
) -> None:
    async with FastStateClient(starlette_site) as client:
        await client.call(Counter.increment, 3)
        assert (await client.get("/page?count=99")).json() == ["/page", 3, None]
        assert (await client.get("/page", headers=as_user("a", permissions="vault.open"))).json() == [
            "/page",
            3,
            100,
        ]


async def test_a_state_that_is_not_allowed_is_401_or_403(starlette_site: FastStateMiddleware, as_user: Any) -> None:
    async with FastStateClient(starlette_site) as client:
        statuses = [
            (await client.get("/vault", headers=headers)).status
            for headers in ({}, as_user("a"), as_user("a", permissions="vault.open"))
        ]
    assert statuses == [401, 403, 200]


async def test_an_argument_that_is_given_by_hand_is_not_replaced() -> None:
    @inject
    async def page(request: Request, counter: Counter) -> PlainTextResponse:
        return PlainTextResponse(str(counter.count))

    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""})
    assert (await page(request, counter=Counter(count=7))).body == b"7"
