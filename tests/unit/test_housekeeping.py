"""What an engine does at intervals goes on when it fails."""

import asyncio

import pytest

from faststate_asgi import StoreUnavailableError
from faststate_asgi.housekeeping import every


@pytest.mark.anyio
async def test_a_background_loop_logs_its_errors_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[Exception | None] = [StoreUnavailableError("gone for a moment"), ValueError("a bug"), None]
    is_done = asyncio.Event()

    async def work() -> None:
        outcome = outcomes.pop(0) if outcomes else None
        if outcome is None:
            is_done.set()
        else:
            raise outcome

    task = asyncio.create_task(every(0.001, "the work", work))
    async with asyncio.timeout(5):
        await is_done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "the work failed: gone for a moment" in caplog.text
