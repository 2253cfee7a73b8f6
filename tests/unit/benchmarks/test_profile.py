"""What a profile says about self time."""

from benchmarks.profile import by_package, self_times, shares

STACKS = """\
<module> (benchmarks/servers.py:1);Runner.run (asyncio/runners.py:86) 4
Runner.run (asyncio/runners.py:86);send (uvicorn/protocols/http/httptools_impl.py:463) 3
Runner.run (asyncio/runners.py:86);handle_event (faststate_asgi/dispatch.py:424) 2
handle_event (faststate_asgi/dispatch.py:424);send (uvicorn/protocols/http/httptools_impl.py:463) 1
_bootstrap (threading.py:966);Condition.wait (threading.py:295) 50
"""


def test_the_innermost_function_has_the_self_time_and_a_waiting_thread_has_none():
    found = self_times(STACKS)
    assert found["send (uvicorn/protocols/http/httptools_impl.py:463)"] == 4
    assert found["handle_event (faststate_asgi/dispatch.py:424)"] == 2
    assert found.total() == 10


def test_the_runner_stands_for_the_event_loop():
    assert by_package(self_times(STACKS)) == {"the event loop": 4, "uvicorn": 4, "faststate_asgi": 2}


def test_shares_are_parts_of_all_samples():
    assert shares(by_package(self_times(STACKS))) == {"the event loop": 0.4, "uvicorn": 0.4, "faststate_asgi": 0.2}
