"""Several changes in one answer, and only what changed."""

from typing import Any

import pytest
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from faststate_asgi import FastStateMiddleware, ReactiveState, StateRegistry, event
from faststate_asgi.testing import FastStateClient

pytestmark = pytest.mark.anyio


class Updates(BaseModel, extra="forbid"):
    """What a page may change at once; every other name is refused."""

    user_info: dict[str, str] | None = None
    ui_state: dict[str, bool] | None = None


class OptimizedState(ReactiveState):
    """Two groups of fields and one that no page may write."""

    user_info: dict[str, str] = Field(default_factory=dict)
    ui_state: dict[str, bool] = Field(default_factory=dict)
    credit: int = 10

    @event
    def batch_update(self, updates: Updates) -> None:
        """Change both groups in one step."""
        if updates.user_info is not None:
            self.user_info.update(updates.user_info)
        if updates.ui_state is not None:
            self.ui_state.update(updates.ui_state)

    @event
    def update_ui_only(self, ui_changes: dict[str, bool]) -> None:
        """Change one group in place."""
        self.ui_state.update(ui_changes)


@pytest.fixture
def site(new_app: Any, wrap: Any, registry: StateRegistry) -> FastStateMiddleware:
    """A page that tells what is stored."""
    registry.register(OptimizedState)
    app, rt = new_app()

    @rt("/")
    def home(optimized: OptimizedState) -> Any:
        return JSONResponse(optimized.signals())

    return wrap(app)


async def test_two_changed_fields_travel_in_one_patch(site: FastStateMiddleware, patches: Any) -> None:
    updates = {"user_info": {"name": "Ada"}, "ui_state": {"open": True}}
    async with FastStateClient(site) as client:
        answer = await client.call("OptimizedState/batch_update", {"updates": updates})
    assert patches(answer) == [updates]
    assert len(answer.frames) == 1


@pytest.mark.parametrize("name", ["credit", "id", "version", "model_config", "__class__", "batch_update", "unknown"])
async def test_a_field_that_is_not_offered_is_refused_and_nothing_changes(site: FastStateMiddleware, name: str) -> None:
    updates = {"user_info": {"name": "Mallory"}, name: 1_000_000}
    async with FastStateClient(site) as client:
        answer = await client.call("OptimizedState/batch_update", {"updates": updates})
        stored = (await client.get("/")).json()
    assert answer.error["status"] == 422
    assert stored == {"user_info": {}, "ui_state": {}, "credit": 10}


async def test_a_change_of_one_group_sends_that_group_alone(site: FastStateMiddleware, patches: Any) -> None:
    async with FastStateClient(site) as client:
        first = await client.call(OptimizedState.update_ui_only, {"open": True, "wide": False})
        second = await client.call(OptimizedState.update_ui_only, {"open": True, "wide": True})
    assert patches(first) == [{"ui_state": {"open": True, "wide": False}}]
    assert patches(second) == [{"ui_state": {"wide": True}}]
