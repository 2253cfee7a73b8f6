"""The store in Redis or Valkey (7 and newer): what belongs together happens in one script.

A state's keys and its channel carry the state's key as hash tag. Announcements are part of the commit.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# redis-py types its commands in part only.
from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar

from ..errors import FastStateError, LeaseLostError, MissingDependencyError, OverloadedError, StoreUnavailableError
from ..keys import StateKey, StateScope
from ..messages import Published, addressed, encode
from .base import NO_VERSION, Answer, ImmediateStore, Lease, Remember, Snapshot, Write

try:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import NoScriptError, RedisError
except ImportError as exc:  # pragma: no cover - told where the store is made
    raise MissingDependencyError("Redis needs redis-py: pip install 'faststate-asgi[redis]'") from exc

from .redis_advice import advise
from .redis_pipe import Pipe

T = TypeVar("T")

ANSWERS_PER_OWNER = 1000
COMMIT_IDS_S = 600
FENCES_S = 86400
SESSIONS_S = 90 * 86400
POLL_S = (0.003, 0.03)
TRIES = 3
POOL_SIZE = 64
UNREADABLE = Snapshot("?", b"")
_OWNED = frozenset({StateScope.SESSION, StateScope.COMPONENT})


def state_name(key: StateKey) -> str:
    """Return where a state is."""
    return f"fs:{{{key}}}:s"


def lease_name(key: StateKey) -> str:
    """Return where it is said who has a state's turn."""
    return f"fs:{{{key}}}:l"


def fence_name(key: StateKey) -> str:
    """Return where a state's turns are counted."""
    return f"fs:{{{key}}}:f"


def channel_name(key: StateKey) -> str:
    """Return the channel of a state's changes."""
    return f"fs:{{{key}}}:c"


def make_client(url: str, timeout_s: float | None) -> Redis:
    """Return a client with bounded waits that repeats nothing by itself; ``None`` waits for ever (subscribers)."""
    # A socket of this machine has nobody at the other end who could be gone without a word.
    options: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=POOL_SIZE,
        timeout=timeout_s or 5,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s or 5,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    return Redis(connection_pool=pool)


class RedisStore:
    """Implements ``Store`` on Redis; durable as Redis is configured.

    Args:
        url: ``redis://...``, ``rediss://...`` or ``unix:///...``.
        lease_s: how long a turn lasts unless it is renewed.
        timeout_s: how long Redis may take for one call.
        origin: names this process in announcements.
    """

    name = "redis"
    is_shared = True
    immediate: ImmediateStore | None = None

    def __init__(self, url: str, *, lease_s: float, timeout_s: float, origin: str | None = None) -> None:
        self.origin = origin or secrets.token_hex(8)
        make_client(url, timeout_s)  # opens nothing, but reads the address
        self._url, self._timeout_s = url, timeout_s
        self._lease_ms = max(1, int(lease_s * 1000))
        self._client: Redis | None = None
        self._pipe: Pipe | None = None
        self._is_advised = False
        self._scripts = {name: _script(name) for name in ("acquire", "commit", "hold")}
        self._shas: dict[str, str] = {}

    async def open(self) -> None:
        """Make the pool; connections are made when they are needed. The first time, log what Redis may lose."""
        if self._client is None:
            self._client = make_client(self._url, self._timeout_s)
            self._pipe = Pipe(self._client)
            if not self._is_advised:
                self._is_advised = True
                await advise(self._client, self._timeout_s)

    async def aclose(self) -> None:
        """Close the pool; idempotent."""
        client, self._client = self._client, None
        if client is not None:
            if self._pipe is not None:
                await self._pipe.aclose()
            await client.aclose()
            await client.connection_pool.disconnect()

    async def ping(self) -> None:
        """Raise ``StoreUnavailableError`` if Redis does not answer."""
        await self._call(lambda client: client.ping())

    # -- running -----------------------------------------------------------------------------------------------------

    async def _call(self, run: Callable[[Redis], Awaitable[T]]) -> T:
        """Run commands that may be repeated: a broken connection is tried again, within the time that is promised.

        Raises:
            StoreUnavailableError: Redis did not answer.
        """
        deadline = time.monotonic() + self._timeout_s
        for attempt in range(TRIES):
            client = self._client
            if client is None:
                raise StoreUnavailableError("The Redis store is closed", headers={"Retry-After": "1"})
            try:
                return await run(client)
            except FastStateError:
                raise
            except (RedisError, OSError, TimeoutError) as exc:
                if attempt == TRIES - 1 or time.monotonic() >= deadline:
                    raise StoreUnavailableError(
                        "Redis does not answer; please try again", headers={"Retry-After": "1"}
                    ) from exc
                await asyncio.sleep(random.uniform(0, 0.05))
        raise AssertionError("the last attempt returns or raises")

    async def _run(self, name: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """Run a script; one that Redis has forgotten is loaded again."""

        async def run(client: Redis) -> Any:
            sha = self._shas.get(name)
            if sha is None:
                sha = self._shas[name] = await client.script_load(self._scripts[name])
            try:
                return await self._piped("EVALSHA", sha, len(keys), *keys, *arguments)
            except NoScriptError:
                return await client.eval(self._scripts[name], len(keys), *keys, *arguments)

        return await self._call(run)

    def _piped(self, *command: str | bytes | int) -> Awaitable[Any]:
        """Send a command together with others of this turn."""
        assert self._pipe is not None, "open() comes first"
        return self._pipe.call(*command)

    # -- states ------------------------------------------------------------------------------------------------------

    async def read(self, keys: Sequence[StateKey]) -> list[Snapshot | None]:
        """Return what is stored, in one round trip."""

        async def run(client: Redis) -> list[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.hmget(state_name(key), ["v", "d", "s"])
                # One key of another form must not make the others unreadable.
                result: list[Any] = await pipeline.execute(raise_on_error=False)
            for found in result:
                if isinstance(found, Exception) and not str(found).startswith("WRONGTYPE"):
                    raise found
            return result

        return [UNREADABLE if isinstance(found, Exception) else _snapshot(*found) for found in await self._call(run)]

    async def acquire(self, keys: Sequence[StateKey], *, wait_s: float, recall: Sequence[str] = ()) -> Lease:
        """Take the turn once it is free; asks again with a growing, random pause."""
        holder = os.urandom(16).hex()  # programs seed ``random``
        deadline = time.monotonic() + wait_s
        pause_s = POLL_S[0]
        names = [name for key in keys for name in (lease_name(key), fence_name(key), state_name(key))]
        names += [_answer_name(name) for name in recall]
        while True:
            taking = asyncio.ensure_future(self._run("acquire", names, [holder, self._lease_ms, FENCES_S, len(keys)]))
            try:
                found = await asyncio.shield(taking)
            except asyncio.CancelledError:
                taking.add_done_callback(lambda done: self._give_back(done, keys, holder))
                raise
            if found[0]:
                parts = found[2:]
                snapshots = {key: _snapshot(*parts[3 * i : 3 * i + 3]) for i, key in enumerate(keys)}
                payloads = zip(recall, parts[3 * len(keys) :], strict=True)
                answers = {name: _load_answer(payload) for name, payload in payloads if payload}
                return Lease(tuple(keys), int(found[1]), holder, snapshots, answers)
            if time.monotonic() + pause_s > deadline:
                raise OverloadedError("Busy; please try again", headers={"Retry-After": "1"})
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 1.5, POLL_S[1])

    def _give_back(self, taking: asyncio.Future[Any], keys: Sequence[StateKey], holder: str) -> None:
        if not taking.cancelled() and taking.exception() is None and taking.result()[0]:
            self._abandoned = asyncio.ensure_future(self.release(Lease(tuple(keys), 0, holder)))

    async def renew(self, lease: Lease) -> None:
        """Hold the turn for another lease time."""
        held = await self._run("hold", _leases(lease), [lease.holder, self._lease_ms])
        if held != len(lease.keys):
            raise LeaseLostError("The change came too late and was not made; please try again")

    async def release(self, lease: Lease) -> None:
        """Give the turn back; one that was lost already is ignored."""
        await self._run("hold", _leases(lease), [lease.holder, 0])

    async def commit(
        self,
        lease: Lease,
        writes: Sequence[Write],
        *,
        commit_id: str,
        remember: Sequence[Remember] = (),
        release: bool = True,
    ) -> None:
        """Store everything and announce it in one script."""
        answers = [(name, item) for item in remember for name in item.names]
        keys = [f"fs:commit:{commit_id}", *_leases(lease)]
        arguments: list[str | bytes | int] = [
            lease.holder,
            int(release),
            self._lease_ms,
            len(lease.keys),
            len(writes),
            len(answers),
            COMMIT_IDS_S,
            SESSIONS_S,
            ANSWERS_PER_OWNER,
        ]
        for item in writes:
            name = state_name(item.key)
            keys += [name, _session_name(item.key) or name]
            arguments += self._write_arguments(item)
        for name, remembered in answers:
            place = _answer_name(name)
            keys += [place, f"fs:answers:{remembered.owner}" if remembered.owner else place]
            arguments += [_dump_answer(remembered.answer), _milliseconds(remembered.ttl_s)]
        outcome = await self._run("commit", keys, arguments)
        if outcome in (b"lost", "lost"):
            raise LeaseLostError("The change came too late and was not made; please try again")
        if outcome in (b"stale", "stale"):
            raise LeaseLostError("The state was changed meanwhile; please try again")

    def _write_arguments(self, item: Write) -> list[str | bytes | int]:
        ttl = "" if item.ttl_s is None else _milliseconds(item.ttl_s)
        message = self.addressed(encode(Published(item.key, item.before, item.version)))
        return [item.before, item.version, item.data or b"", item.shape, ttl, channel_name(item.key), message]

    def addressed(self, message: str) -> str:
        """Return a message with this process's name, so that it does not hear itself."""
        return addressed(message, self.origin)

    async def touch(self, keys: Sequence[tuple[StateKey, float]]) -> None:
        """Move the expiry of watched states that have one."""

        async def run(client: Redis) -> None:
            async with client.pipeline(transaction=False) as pipeline:
                for key, ttl_s in keys:
                    pipeline.pexpire(state_name(key), _milliseconds(ttl_s), xx=True)
                await pipeline.execute()

        await self._call(run)

    async def delete_session(self, session_id: str, *, keep: Collection[StateKey] = ()) -> list[StateKey]:
        """Delete what belongs to a session, and announce it."""
        index = f"fs:session:{session_id}"
        kept = {state_name(key) for key in keep}

        async def run(client: Redis) -> list[StateKey]:
            members: set[Any] = await client.smembers(index)
            names = [name for name in (member.decode() for member in members) if name not in kept]
            deleted: list[StateKey] = []
            async with client.pipeline(transaction=True) as pipeline:
                for name in names:
                    key = StateKey.parse(name.removeprefix("fs:{").removesuffix("}:s"))
                    pipeline.delete(name)
                    pipeline.srem(index, name)
                    message = encode(Published(key, "", NO_VERSION))
                    pipeline.publish(channel_name(key), self.addressed(message))
                    deleted.append(key)
                await pipeline.execute()
            return deleted

        return await self._call(run)

    async def purge(self, limit: int) -> int:
        """Return 0: Redis deletes what has expired by itself."""
        return 0

    async def count(self) -> int:
        """Return the number of stored states, by a scan that does not block Redis."""

        async def run(client: Redis) -> int:
            return len({name async for name in client.scan_iter(match="fs:{*}:s", count=1000)})

        return await self._call(run)

    # -- answers and records -----------------------------------------------------------------------------------------

    async def recall(self, names: Sequence[str]) -> Answer | None:
        """Return a kept answer."""
        return next(iter((await self.recall_all(names)).values()), None)

    async def recall_all(self, names: Sequence[str]) -> dict[str, Answer]:
        """Return kept answers by name."""
        found: list[Any] = await self._call(lambda _: self._piped("MGET", *map(_answer_name, names)))
        return {name: _load_answer(payload) for name, payload in zip(names, found, strict=True) if payload is not None}

    async def remember(self, items: Sequence[Remember]) -> None:
        """Keep answers of events that changed nothing."""
        nobody = Lease((), 0, "")
        await self.commit(nobody, (), commit_id=secrets.token_hex(8), remember=items)

    async def get_records(self, names: Sequence[str]) -> list[bytes | None]:
        """Return records that have not expired."""
        found: list[Any] = await self._call(lambda _: self._piped("MGET", *[f"fs:record:{name}" for name in names]))
        return found

    async def put_records(self, records: Mapping[str, tuple[bytes | None, float]]) -> None:
        """Store records together."""

        async def run(client: Redis) -> None:
            async with client.pipeline(transaction=True) as pipeline:
                for name, (value, ttl_s) in records.items():
                    if value is None:
                        pipeline.delete(f"fs:record:{name}")
                    else:
                        pipeline.set(f"fs:record:{name}", value, px=_milliseconds(ttl_s))
                await pipeline.execute()

        await self._call(run)


def _script(name: str) -> str:
    return resources.files("faststate_asgi.stores").joinpath("lua", f"{name}.lua").read_text()


def _snapshot(version: bytes | None, data: bytes | None, shape: bytes | None) -> Snapshot | None:
    """Return a stored state; what is no state of ours is none."""
    if not version or data is None:
        return None
    return Snapshot(version.decode(errors="replace"), data, (shape or b"").decode(errors="replace"))


def _leases(lease: Lease) -> list[str]:
    return [lease_name(key) for key in lease.keys]


def _session_name(key: StateKey) -> str | None:
    return f"fs:session:{key.session_id}" if key.scope in _OWNED else None


def _answer_name(name: str) -> str:
    return f"fs:answer:{name}"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _dump_answer(answer: Answer) -> str:
    """Return an answer as text."""
    headers = [[_text(name), _text(value)] for name, value in answer.headers]
    body = None if answer.body is None else _text(answer.body)
    return json.dumps([_text(answer.digest), answer.status, headers, body])


def _load_answer(payload: bytes) -> Answer:
    """Return an answer from text."""
    digest, status, headers, body = json.loads(payload)
    pairs = tuple((b64decode(name), b64decode(value)) for name, value in headers)
    return Answer(b64decode(digest), status, pairs, None if body is None else b64decode(body))


def _text(value: bytes) -> str:
    return b64encode(value).decode()
