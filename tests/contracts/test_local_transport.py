"""The local transport keeps every promise of a transport."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from faststate_asgi.testing.transport_contract import TransportContract, Transports
from faststate_asgi.transports.local import LocalBus, LocalTransport


class TestLocalTransport(TransportContract):
    @pytest.fixture
    async def transports(self) -> AsyncIterator[Transports]:
        bus = LocalBus()
        pair = LocalTransport(bus), LocalTransport(bus)
        yield pair
        for transport in pair:
            await transport.aclose()
