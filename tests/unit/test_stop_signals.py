"""SIGTERM and SIGINT are heard before the handlers that a server has set, and those are put back."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from faststate_asgi.stop_signals import StopSignals

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """Return what was called; a server's handlers are set as long as the test runs."""
    calls: list[Any] = []
    before = {number: signal.signal(number, lambda number, _: calls.append(number)) for number in NUMBERS}
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_we_hear_of_a_signal_before_the_server_does(heard: list[Any], number: int) -> None:
    signals = StopSignals(lambda: heard.append("ours"))
    assert not signals.is_in_server
    signals.chain()
    signals.chain()
    assert signals.is_in_server
    os.kill(os.getpid(), number)
    assert heard == ["ours", number]


def test_the_servers_handlers_are_put_back(heard: list[Any]) -> None:
    signals = StopSignals(lambda: heard.append("ours"))
    before = [signal.getsignal(number) for number in NUMBERS]
    signals.chain()
    signals.restore()
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert not signals.is_in_server


def test_a_handler_that_was_set_after_ours_stays_and_may_call_ours(heard: list[Any]) -> None:
    signals = StopSignals(lambda: heard.append("ours"))
    signals.chain()
    inner = signal.getsignal(signal.SIGTERM)
    assert callable(inner)
    later = signal.signal(signal.SIGTERM, lambda number, frame: (heard.append("later"), inner(number, frame)))
    assert later == inner
    signals.restore()
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == ["later", "ours", signal.SIGTERM]


def test_no_thread_but_the_main_one_sets_handlers(heard: list[Any]) -> None:
    signals = StopSignals(lambda: heard.append("ours"))
    before = [signal.getsignal(number) for number in NUMBERS]
    thread = threading.Thread(target=signals.chain)
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in NUMBERS] == before
