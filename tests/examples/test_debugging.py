"""Looking inside: what is registered, which fields an event changed, how long it took."""

import functools
import inspect
import logging
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import JSONResponse

from faststate_asgi import (
    FastStateMiddleware,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
    get_state_info,
    requires_auth,
)
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio

logger = logging.getLogger("shop")


def in_either_kind(around: Callable[[Any, str], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a decorator for ``def`` and ``async def`` methods from a context manager of ``self`` and name."""

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(func):

            @functools.wraps(func)
            async def wrapped_async(self: Any, *args: Any, **kwargs: Any) -> Any:
                with around(self, func.__name__):
                    return await func(self, *args, **kwargs)

            return wrapped_async

        @functools.wraps(func)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            with around(self, func.__name__):
                return func(self, *args, **kwargs)

        return wrapped

    return decorate


class LoggedChanges:
    """Logs the names of the fields that change inside, never their values."""

    def __init__(self, state: ReactiveState, name: str) -> None:
        self.state, self.name = state, name

    def __enter__(self) -> None:
        self.before = self.state.signals()

    def __exit__(self, *exc: object) -> None:
        after = self.state.signals()
        changed = sorted(field for field in after if after[field] != self.before[field])
        logger.info("state changes in %s: %s", self.name, ", ".join(changed))


class LoggedDuration:
    """Logs how long the inside took."""

    def __init__(self, state: ReactiveState, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        logger.info("%s took %.3fs", self.name, time.perf_counter() - self.began)


log_changes = in_either_kind(LoggedChanges)
log_duration = in_either_kind(LoggedDuration)


class Account(ReactiveState):
    """Events under users' own decorators."""

    email: str = ""
    logins: int = 0

    @event
    @log_changes
    def register(self, email: str) -> None:
        """Change both fields."""
        self.email, self.logins = email, self.logins + 1

    @event
    @log_changes
    async def register_async(self, email: str) -> None:
        """Change both fields."""
        self.email, self.logins = email, self.logins + 1

    @event
    @log_duration
    def measured(self, amount: int = 1) -> str:
        """Return something."""
        return f"sum {amount}"

    @event
    @log_duration
    async def measured_async(self, amount: int = 1) -> str:
        """Return something."""
        return f"sum {amount}"

    @event
    @log_changes
    @requires_auth(permissions=["accounts"])
    def guarded(self, email: str) -> None:
        """Change a field, if allowed."""
        self.email = email


class Notice(ReactiveState):
    """Another class."""

    text: str = ""


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry, header_identity: Any) -> FastStateMiddleware:
    """A site with the class and a page about itself that exists in debug mode only."""
    registry.register(Account)
    registry.register(Notice, StateConfig(scope=StateScope.GLOBAL))
    app, _ = new_app()
    return wrap(app, authenticate=header_identity)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the tests' own logger said."""
    return [record.getMessage() for record in caplog.records if record.name == "shop"]


@pytest.mark.parametrize("name", ["register", "register_async"])
async def test_an_event_logs_the_names_of_changed_fields_once_and_no_values(
    site: FastStateMiddleware, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with FastStateClient(site) as client:
        answer = await client.call(f"Account/{name}", {"email": "ada@example.org"})
        refused = await client.call(f"Account/{name}", {})
    assert answer.signals == {"email": "ada@example.org", "logins": 1}
    assert refused.error["status"] == 422
    assert lines(caplog) == [f"state changes in {name}: email, logins"]
    assert "ada@example.org" not in caplog.text


@pytest.mark.parametrize("name", ["measured", "measured_async"])
async def test_an_event_logs_its_duration_and_returns_its_result(
    site: FastStateMiddleware, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with FastStateClient(site) as client:
        answer = await client.call(f"Account/{name}", {"amount": 3})
    assert answer.elements[0].html == "sum 3"
    (line,) = lines(caplog)
    assert re.fullmatch(rf"{name} took \d+\.\d{{3}}s", line)


async def test_a_decorator_between_event_and_requires_auth_runs_and_the_guard_holds(
    site: FastStateMiddleware, as_user: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with FastStateClient(site) as client:
        refused = await client.call("Account/guarded", {"email": "x"}, headers=as_user("bob"))
        answer = await client.call("Account/guarded", {"email": "x"}, headers=as_user("al", permissions="accounts"))
    assert refused.error["status"] == 403
    assert answer.signals == {"email": "x"}
    assert lines(caplog) == ["state changes in guarded: email"]


@pytest.mark.parametrize("is_debug", [False, True])
async def test_the_debug_page_answers_in_debug_mode_only(
    new_app: Any, wrap: Any, registry: StateRegistry, is_debug: bool
) -> None:
    registry.register(Account)
    registry.register(Notice, StateConfig(scope=StateScope.GLOBAL))
    app, rt = new_app()
    site = wrap(app, debug=is_debug)
    if is_debug:

        @rt("/debug")
        def debug_info() -> Any:
            return JSONResponse(get_state_info(engine=site.faststate))

    async with FastStateClient(site) as client:
        await client.call("Account/measured", {})
        response = await client.get("/debug")
        if not is_debug:
            assert response.status == 404
            return
        info = response.json()
    states = {one["class_name"]: one["scope"] for one in info["registered_states"]}
    assert states == {"Account": "session", "Notice": "global"}
    assert isinstance(info["cached_instances"], int)
