"""What looks like a mistake is reported with the way out, and what is meant is not."""

import logging
from typing import Any

import pytest

from faststate_asgi import (
    Bound,
    FastState,
    FastStateMiddleware,
    ReactiveState,
    StateConfig,
    StateRegistry,
    StateScope,
    event,
    inject,
)
from faststate_asgi.checks import findings, route_findings
from faststate_asgi.testing import FastStateClient

RECORD, GLOBAL = StateScope.RECORD, StateScope.GLOBAL


class Page(ReactiveState):
    """Something with an owner."""

    title: str = ""
    user_id: str = ""

    @event
    def rename(self, title: str) -> None:
        """Set the title."""
        self.title = title


class Notice(ReactiveState):
    """Something with a field that the browser sets."""

    text: Bound[str] = ""


class Unclear:
    """Nothing that pydantic could make from a request."""


class Broken(ReactiveState):
    """An event whose parameter cannot be checked."""

    @event
    def take(self, what: "Missing") -> None:  # type: ignore[name-defined]  # noqa: F821
        """Take something of an unknown kind."""


def found(cls: type[ReactiveState], config: StateConfig) -> list[str]:
    """Return the findings on one class."""
    registry = StateRegistry()
    registry.register(cls, config)
    return findings(registry)


def allow_all(identity: Any, key: Any, action: str) -> bool:
    """Let everybody pass, on purpose."""
    return True


def test_records_that_everybody_can_walk_through_are_reported() -> None:
    """A record state without a rule shows everything to whoever counts through its ids."""
    (finding,) = found(Page, StateConfig(scope=RECORD))
    assert finding.startswith("Page: ")
    for way_out in ("owner_field", "authorize", "permissions", "public=True"):
        assert way_out in finding


@pytest.mark.parametrize(
    "config",
    [
        StateConfig(scope=RECORD, public=True),
        StateConfig(scope=RECORD, owner_field="user_id"),
        StateConfig(scope=RECORD, permissions="pages.write"),
        StateConfig(scope=RECORD, roles=("editor",)),
        StateConfig(scope=RECORD, authorize=allow_all),
        StateConfig(scope=GLOBAL),
        StateConfig(scope=StateScope.SESSION),
        StateConfig(scope=StateScope.COMPONENT),
        StateConfig(scope=StateScope.USER),
    ],
    ids=lambda config: f"{config.scope.value}",
)
def test_records_with_a_guard_and_other_scopes_are_not(config: StateConfig) -> None:
    assert found(Page, config) == []


def test_a_bound_field_that_everybody_sets_for_everybody_is_reported() -> None:
    (finding,) = found(Notice, StateConfig(scope=GLOBAL))
    assert finding.startswith("Notice.text: ")


@pytest.mark.parametrize(
    "config",
    [
        StateConfig(scope=GLOBAL, public=True),
        StateConfig(scope=GLOBAL, requires_auth=True),
        StateConfig(scope=GLOBAL, authorize=allow_all),
        StateConfig(scope=StateScope.SESSION),
        StateConfig(scope=StateScope.USER),
    ],
    ids=lambda config: f"{config.scope.value}",
)
def test_a_bound_field_with_a_guard_or_of_ones_own_is_not(config: StateConfig) -> None:
    assert found(Notice, config) == []


def test_an_open_record_with_a_bound_field_has_two_findings() -> None:
    assert len(found(Notice, StateConfig(scope=RECORD))) == 2


def test_an_event_that_cannot_be_called_is_reported_and_the_rest_goes_on() -> None:
    registry = StateRegistry()
    registry.register(Broken)
    registry.register(Notice, StateConfig(scope=GLOBAL))
    broken, notice = findings(registry)
    assert "Broken.take" in broken
    assert notice.startswith("Notice.text: ")


def test_nothing_is_found_where_nothing_is() -> None:
    assert findings(StateRegistry()) == []


@pytest.mark.anyio
async def test_findings_are_logged_when_the_engine_starts(caplog: pytest.LogCaptureFixture) -> None:
    registry = StateRegistry()
    registry.register(Page, StateConfig(scope=RECORD))
    with caplog.at_level(logging.WARNING, "faststate"):
        async with FastState(registry=registry):
            pass
    assert [record.getMessage() for record in caplog.records] == findings(registry)


def session_names(site: Any) -> None:
    """Give a FastHTML app one route for each way to ask for a notice."""

    def named_like_the_session(sess: Notice) -> str:
        return type(sess).__name__

    def short(s: Notice) -> str:
        return type(s).__name__

    def other(notice: Notice) -> str:
        return type(notice).__name__

    site.get("/sess")(named_like_the_session)
    site.get("/s")(short)
    site.get("/other")(other)
    site.get("/injected")(inject(short))


@pytest.mark.anyio
async def test_a_state_parameter_that_fasthtml_takes_for_its_session_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fasthtml = pytest.importorskip("fasthtml.common")
    site = fasthtml.FastHTML(secret_key="k" * 32)
    session_names(site)
    registry = StateRegistry()
    registry.register(Notice)
    app = FastStateMiddleware(site, registry=registry, secret_key="k" * 32)
    with caplog.at_level(logging.WARNING, "faststate"):
        async with FastStateClient(app) as client:
            pages = {name: (await client.get(f"/{name}")).text for name in ("sess", "s", "other", "injected")}
    assert {name for name, text in pages.items() if "Notice" in text} == {"other", "injected"}
    found = route_findings(app)
    assert [finding.partition(":")[0] for finding in found] == ["/sess", "/s"]
    assert all("@inject" in finding and "Notice" in finding for finding in found)
    assert [record.getMessage() for record in caplog.records] == found


def test_an_app_without_readable_routes_has_no_findings() -> None:
    class Strange:
        routes = "none of ours"

    assert route_findings(Strange()) == []
    assert route_findings(None) == []
