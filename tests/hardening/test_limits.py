"""What is too large, too deep, too slow, too many or too long: refused with its status, in words, and nothing is left."""

import asyncio
import gc
import http.client
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import UploadFile

from faststate_asgi import ReactiveState, event, incoming, watchdog
from faststate_asgi.testing import FastStateClient
from tests.conftest import Serve
from tests.hardening.wrapping import GLOBAL, RECORD, wrapped

pytestmark = pytest.mark.anyio
EVENTS = "/faststate/events"
BIG = "tests.hardening.counter_site:app"
RELEASE: dict[str, Any] = {}
NAMES: list[Any] = []


class Tally(ReactiveState):
    """Counts, quickly, slowly, and in ways that block."""

    total: int = 0

    @event
    def add(self, amount: int = 1) -> None:
        self.total += amount

    @event
    async def wait(self) -> None:
        await RELEASE["async"].wait()
        self.total += 1

    @event
    def wait_in_thread(self) -> None:
        RELEASE["thread"].wait(20)
        self.total += 1

    @event(timeout=0.2)
    async def never(self) -> None:
        self.total += 1
        await asyncio.sleep(60)

    @event
    async def block(self) -> None:
        time.sleep(0.9)  # noqa: ASYNC251 - that is the mistake which has to be named

    @event
    async def block_in_steps(self) -> Any:
        yield None
        time.sleep(0.9)  # noqa: ASYNC251 - the same

    @event
    def upload(self, file: UploadFile, files: list[UploadFile] | None = None) -> None:
        NAMES.extend((one.filename, one.content_type) for one in (file, *(files or ())))


class Own(ReactiveState):
    """Counts for one session."""

    count: int = 0

    @event
    def add(self) -> None:
        self.count += 1


def site(**settings: Any) -> Any:
    return wrapped((Tally, GLOBAL), Own, **settings)


async def drive(app: Any, receive: Callable[[], Awaitable[Any]], **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send a POST to ``Tally/add`` whose body comes as ``receive`` says."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    raw = {"content-type": "application/json", "host": "testserver", **headers}
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": f"{EVENTS}/Tally/add",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in raw.items()],
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    names = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], names, b"".join(message.get("body", b"") for message in sent)


def in_words(body: bytes, status: int) -> bool:
    """Whether a refusal says what is wrong, and nothing of the inside."""
    document = json.loads(body)
    return document["status"] == status and len(document["detail"]) > 10 and b"Traceback" not in body


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media", ["application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("is_begun", [False, True])
async def test_a_body_that_never_arrives_is_given_up(
    monkeypatch: pytest.MonkeyPatch, media: str, is_begun: bool
) -> None:
    """Connections that are held open by a byte now and then would use up all that the server has."""
    monkeypatch.setattr(incoming, "BODY_WAIT_S", 0.1)
    app = site()
    first = [b'{"amount"' if media.startswith("application") else b"--x\r\nContent-"] if is_begun else []

    async def receive() -> Any:
        if first:
            return {"type": "http.request", "body": first.pop(), "more_body": True}
        return await asyncio.get_running_loop().create_future()

    async with FastStateClient(app):
        tasks = len(asyncio.all_tasks())
        status, headers, body = await drive(app, receive, **{"content-type": media})
        assert (status, headers["connection"]) == (408, "close")
        assert in_words(body, 408)
        assert len(asyncio.all_tasks()) == tasks
        assert (await app.faststate.get(Tally)).version == "0"


async def test_a_slow_body_that_goes_on_arriving_is_taken() -> None:
    """What is refused too early would lock out everybody with a bad connection."""
    app, parts = site(), [b'{"am', b'ount"', b": 3}"]

    async def receive() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async with FastStateClient(app):
        assert (await drive(app, receive))[0] == 200
        assert (await app.faststate.get(Tally)).total == 3


MIB = 1 << 20
DEEP = b"[" * 100_000 + b"]" * 100_000
BOMBS: dict[str, tuple[str, bytes, int]] = {
    "large": ("application/json", b'{"x": "' + b"x" * 2 * MIB + b'"}', 413),
    "deep": ("application/json", DEEP, 400),
    "deep objects": ("application/json", b'{"a":' * 33 + b"1" + b"}" * 33, 400),
    "digits": ("application/json", b'{"amount": ' + b"9" * 5000 + b"}", 400),
    "keys": ("application/json", json.dumps({f"k{n}": n for n in range(60_000)}).encode(), 200),
    "a million keys": ("application/json", json.dumps(dict.fromkeys(map(str, range(200_000)), 1)).encode(), 413),
    "fields": ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(2000)), 400),
    "a field": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 2 * MIB + b"\r\n--x--\r\n",
        413,
    ),
    "parts": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 1100 + b"--x--\r\n",
        400,
    ),
    "files": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n1\r\n' * 20 + b"--x--\r\n",
        400,
    ),
    "a large file": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"x" * MIB + b"\r\n--x--\r\n",
        413,
    ),
    "a head without end": ("multipart/form-data; boundary=x", b"--x\r\nX-A: " + b"x" * MIB, 400),
}


async def test_bombs_are_refused_and_leave_nothing() -> None:
    """A few requests would fill the memory, or keep the server busy for minutes."""
    app = site(max_file=MIB // 2)

    async def throw(name: str) -> None:
        media, body, expected = BOMBS[name]
        chunks = [body[start : start + 65536] for start in range(0, len(body), 65536)]

        async def receive() -> Any:
            await asyncio.sleep(0)
            return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

        status, _, answer = await drive(app, receive, **{"content-type": media})
        assert status == expected, (name, answer[:300])
        assert status == 200 or in_words(answer, status)

    async with FastStateClient(app):
        await asyncio.gather(*map(throw, BOMBS))
        gc.collect()
        before, tasks = len(gc.get_objects()), len(asyncio.all_tasks())
        await asyncio.gather(*(throw(name) for name in BOMBS for _ in range(9)))  # 108 at once
        gc.collect()
        # What is kept of a successful request in between: caches and mailboxes, some objects each.
        assert len(gc.get_objects()) < before + 600
        assert len(asyncio.all_tasks()) == tasks


FIELD = b'--x\r\nContent-Disposition: form-data; name="amount"\r\n\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
END = b"\r\n--x--\r\n"


@pytest.mark.parametrize(
    ("body", "status", "total"),
    [
        (FIELD + b"5" + END, 200, 5),
        (FIELD + b"5", 400, 0),
        (FIELD + b"5\r\n", 400, 0),
        (FIELD + b"5\r\n--x", 400, 0),
        (FIELD + b"5\r\n" + FILE + b"x" * 100_000 + b"\r\n--x", 400, 0),
        (b"--x--\r\n", 200, 1),
        (b"", 200, 1),
        (FIELD.replace(b"amount", b"text") + b"x" * (MIB - 1) + END, 200, 1),
        (FILE + b"x" * (MIB // 2 + 1) + END, 413, 0),
    ],
)
async def test_a_form_is_taken_whole_or_refused(body: bytes, status: int, total: int) -> None:
    """What is cut off on its way would do something that nobody asked for."""
    app = site(max_file=MIB // 2)

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async with FastStateClient(app):
        found, _, answer = await drive(app, receive, **{"content-type": "multipart/form-data; boundary=x"})
        assert found == status
        assert status == 200 or in_words(answer, status)
        assert (await app.faststate.get(Tally)).total == total


async def test_a_declared_length_is_believed_before_the_body_is_read() -> None:
    """The server would first read gigabytes and then refuse them."""
    app = site()

    async def receive() -> Any:
        raise AssertionError("nothing of the body is read")

    async with FastStateClient(app):
        status, _, body = await drive(app, receive, **{"content-length": str(MIB + 1)})
        assert status == 413
        assert in_words(body, 413)


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\shell.php", "shell.php"),
        ("C:\\Users\\a\\b.txt", "b.txt"),
        ("/absolute", "absolute"),
        ("a/../..", ""),
        ("..", ""),
        ("a\x00b\x1f.txt", "ab.txt"),
        ("ordinary name.pdf", "ordinary name.pdf"),
    ],
)
async def test_the_name_of_a_file_is_no_path(sent: str, seen: str) -> None:
    """A handler that saves a file under its name would write anywhere on the disk."""
    NAMES.clear()
    async with FastStateClient(site()) as client:
        files = {"file": (sent, b"<?php", "image/png")}
        answer = await client.post(f"{EVENTS}/Tally/upload", data={}, files=files)
        assert answer.status == 204
    assert [(seen, "image/png")] == NAMES


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {"idempotency-key": "k" * 65}, 400),
        ("", {"idempotency-key": ""}, 400),
        ("record_id=" + "x" * 257, {}, 400),
        ("record_id=" + "%C3%A9" * 129, {}, 400),
        ("record_id=a%00b", {}, 400),
        ("record_id=a%0d%0ab", {}, 400),
        ("", {}, 400),
        ("record_id=" + "x" * 256, {}, 204),
        ("record_id=1", {"cookie": "faststate_session=" + "x" * 5000}, 204),
        ("record_id=1", {"faststate-live": "x," * 20_000}, 204),
    ],
)
async def test_ids_and_keys_have_a_length(query: str, headers: dict[str, str], status: int) -> None:
    """Long or strange ids would fill the store with keys, or mean another key to a store than to us."""
    app = wrapped((Tally, RECORD))
    async with FastStateClient(app) as client:
        answer = await client.post(f"{EVENTS}/Tally/add?{query}", json={"amount": 0}, headers=headers)
        assert answer.status == status
        assert status == 204 or in_words(answer.body, 400)
        async with client.stream("Tally:" + "x" * 257, datastar=False) as stream:
            assert stream.status == 400
        assert (await app.faststate.stats())["stored_states"] == 0


# -- how often, how many, how long -------------------------------------------------------------------------------------


async def test_what_waits_for_one_key_is_bounded() -> None:
    """Clicks on one slow state would pile up until the memory is full."""
    RELEASE["async"] = asyncio.Event()
    app = site(max_waiting_per_key=5)
    async with FastStateClient(app) as client:
        first = asyncio.ensure_future(client.call("Tally/wait", datastar=False))
        await asyncio.sleep(0.05)
        rest = [asyncio.ensure_future(client.another().call("Tally/wait", datastar=False)) for _ in range(30)]
        await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)
        assert (await client.another().call("Own/add")).status == 200
        RELEASE["async"].set()
        answers = [await first, *(await asyncio.gather(*rest))]
        taken = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 503]
        assert len(taken) + len(refused) == 31
        assert 5 <= len(taken) <= 7
        assert all("retry-after" in answer.headers and in_words(answer.body, 503) for answer in refused)
        assert (await app.faststate.get(Tally)).total == len(taken)
        assert (await app.faststate.stats())["waiting"] == 0


async def test_an_event_has_a_time_limit_and_leaves_nothing() -> None:
    """An event that hangs would keep its state from everybody for ever."""
    app = site()
    async with FastStateClient(app) as client:
        answer = await client.call("Tally/never", datastar=False)
        assert answer.status == 504
        assert in_words(answer.body, 504)
        assert (await client.call("Tally/add")).signals == {"total": 1}
        assert (await app.faststate.stats())["events_active"] == 0


async def test_streams_are_bounded_for_a_session_and_in_all() -> None:
    """One visitor could hold all connections that the server has."""
    app = site(max_streams=30)
    async with FastStateClient(app) as client:
        await client.call("Own/add")
        stranger = client.another()
        opened = [client.stream("Own", datastar=False) for _ in range(1000)]
        streams = [await one.__aenter__() for one in opened]
        statuses = [stream.status for stream in streams]
        assert (statuses.count(200), statuses.count(429)) == (16, 984)
        assert app.faststate.hub.stream_count == 16
        more = [stranger.stream("Tally", datastar=False) for _ in range(20)]
        statuses = [(await one.__aenter__()).status for one in more]
        assert (statuses.count(200), statuses.count(503)) == (14, 6)
        for one in (*opened, *more):
            await one.__aexit__(None, None, None)
        assert app.faststate.hub.stream_count == 0
        async with client.stream("Own") as stream:
            assert stream.status == 200


@pytest.mark.parametrize("times", [2000, pytest.param(10_000, marks=pytest.mark.full)])
async def test_streams_opened_and_closed_thousands_of_times_leave_nothing(times: int) -> None:
    """Opening and closing would add up until the server falls over."""
    app = site()
    async with FastStateClient(app) as client:
        await client.call("Own/add")

        async def cycle(times: int) -> None:
            for _ in range(times):
                async with client.stream("Own,Tally") as stream:
                    assert stream.status == 200

        await cycle(50)
        gc.collect()
        before, tasks = len(gc.get_objects()), len(asyncio.all_tasks())
        await cycle(times)
        gc.collect()
        assert len(gc.get_objects()) < before + 300
        assert len(asyncio.all_tasks()) <= tasks + 2
        assert (app.faststate.hub.stream_count, len(app.faststate.hub.watched)) == (0, 0)


# -- what blocks -------------------------------------------------------------------------------------------------------


async def test_events_that_block_their_threads_stop_nobody_else() -> None:
    """Ten clicks on a slow event would make the site stand still for everybody."""
    RELEASE["thread"] = threading.Event()
    app = wrapped((Tally, RECORD), Own)
    async with FastStateClient(app) as client:
        slow = [
            asyncio.ensure_future(client.another().call("Tally/wait_in_thread", ids={"record_id": str(number)}))
            for number in range(10)
        ]
        for count in range(1, 21):
            assert (await client.call("Own/add")).signals == {"count": count}
        assert not any(one.done() for one in slow)
        RELEASE["thread"].set()
        assert [answer.status for answer in await asyncio.gather(*slow)] == [200] * 10


@pytest.mark.parametrize("name", ["block", "block_in_steps"])
async def test_the_event_that_blocks_the_loop_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """An event that can be made to compute for long stops the whole site, and nobody would know which it is."""
    monkeypatch.setattr(watchdog, "BLOCKED_S", 0.3)
    monkeypatch.setattr(watchdog, "BEAT_S", 0.05)
    with caplog.at_level(logging.WARNING, "faststate"):
        async with FastStateClient(site()) as client:
            await client.call(f"Tally/{name}")
    named = [record for record in caplog.records if getattr(record, "event", None) == f"Tally/{name}"]
    assert len(named) == 1
    assert "stood still" in named[0].getMessage()
    assert "time.sleep(0.9)" in named[0].getMessage()


async def test_a_watchdog_without_a_blocked_loop_is_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings without a reason hide the one that has one."""
    monkeypatch.setattr(watchdog, "BEAT_S", 0.02)
    before = set(threading.enumerate())
    with caplog.at_level(logging.WARNING, "faststate"):
        async with FastStateClient(site()) as client:
            (made,) = set(threading.enumerate()) - before
            assert made.name == "faststate-watchdog"
            await client.call("Tally/add")
            await asyncio.sleep(0.2)
    assert "stood still" not in caplog.text
    async with asyncio.timeout(5):
        while made.is_alive():
            await asyncio.sleep(0.02)


# -- at a real server --------------------------------------------------------------------------------------------------


def test_a_probe_by_head_hangs_no_connection(serve: Serve, tmp_path: Path) -> None:
    """A monitoring program's HEAD would hold a stream open each time, and its next request would never be answered."""
    server = serve(BIG, env={"MARKS": str(tmp_path)})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for _ in range(3):
        connection.request("HEAD", "/faststate/sse?states=Tally")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        connection.request("GET", "/faststate/health")
        assert json.loads(connection.getresponse().read())["status"] == "ok"
        for method in ("PUT", "OPTIONS", "DELETE"):
            connection.request(method, "/faststate/sse?states=Tally")
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    connection.close()
