"""Starlette's test client without a lifespan has an event loop for each request; what is stored outlives them."""

import threading
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from faststate_asgi import ReactiveState, event
from tests.hardening.wrapping import GLOBAL, wrapped

URL = "/faststate/events/Clicks/add"


class Clicks(ReactiveState):
    """Counts."""

    count: int = 0

    @event
    def add(self) -> None:
        self.count += 1


# With a server's sockets it works too, but nobody can close those that a closed loop leaves behind.
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_an_event_loop_for_each_request_is_enough(kind: str, tmp_path: Path) -> None:
    store_url = "memory:" if kind == "memory" else f"sqlite+aiosqlite:///{tmp_path}/clicks.db"
    app = wrapped((Clicks, GLOBAL), store=store_url, debug=True)
    client = TestClient(app)
    for number in range(1, 4):
        assert f'"count":{number}}}' in client.post(URL).text
    threads = threading.active_count()
    for number in range(4, 10):
        assert f'"count":{number}}}' in client.post(URL).text
    assert threading.active_count() <= threads + 3
    with TestClient(app) as lasting:
        assert '"count":10}' in lasting.post(URL).text
        assert '"count":11}' in lasting.post(URL).text
    assert '"count":12}' in client.post(URL).text
