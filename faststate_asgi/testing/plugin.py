"""Fixtures for pytest: ``faststate_client`` makes clients for wrapped apps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from .client import FastStateClient


@pytest.fixture
async def faststate_client() -> AsyncIterator[Callable[..., Awaitable[FastStateClient]]]:
    """Return a function that starts an app and gives a client for it; everything is stopped after the test."""
    async with AsyncExitStack() as stack:

        async def make(app: Any, **options: Any) -> FastStateClient:
            return await stack.enter_async_context(FastStateClient(app, **options))

        yield make
