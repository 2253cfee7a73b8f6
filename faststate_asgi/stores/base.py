"""The ``Store`` port: what the runtime needs of whatever keeps states, records and idempotency answers.

Values are JSON bytes; no method pickles, evaluates or interprets them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from ..keys import StateKey

T = TypeVar("T")
NO_VERSION = "0"


class Snapshot(NamedTuple):
    """One stored state.

    Args:
        version: ``<number>-<8 hex of the commit's id>``; compare for equality only.
        data: the stored JSON object.
        shape: tells which fields and schema version wrote it.
    """

    version: str
    data: bytes
    shape: str = ""


class Write(NamedTuple):
    """One state that a commit changes.

    Args:
        key: which.
        before: the version that the turn loaded.
        version: the new one.
        data: the new JSON object, None to delete it.
        fields: names of the changed stored fields, for other processes.
        shape: see ``Snapshot``.
        ttl_s: seconds without a write after which it is as never stored; None for never.
    """

    key: StateKey
    before: str
    version: str
    data: bytes | None
    fields: tuple[str, ...] = ()
    shape: str = ""
    ttl_s: float | None = None


class Answer(NamedTuple):
    """What an event answered, kept for repetitions of the request.

    Args:
        digest: of the request's data; another one under the same key is refused.
        status: the HTTP status.
        headers: of the response.
        body: of the response; None if it was too large to keep.
    """

    digest: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = b""


class Remember(NamedTuple):
    """An answer to keep, under all of ``names``, for ``ttl_s`` seconds; ``owner`` bounds how many one session has."""

    names: tuple[str, ...]
    answer: Answer
    ttl_s: float
    owner: str = ""


@dataclass(slots=True)
class Lease:
    """A turn on some keys: who holds it and what was stored when it began.

    Args:
        keys: in canonical order.
        fence: a number that grows with each lease of a key.
        holder: a random name.
        snapshots: by key; None for what is not stored.
        answers: by name, of those that ``acquire`` was asked to recall.
    """

    keys: tuple[StateKey, ...]
    fence: int
    holder: str
    snapshots: Mapping[StateKey, Snapshot | None] = field(default_factory=dict[StateKey, Snapshot | None])
    answers: Mapping[str, Answer] = field(default_factory=dict[str, Answer])


class ImmediateStore(Protocol):
    """What a store in this process can do besides: no waiting, and so no lease either; the caller's queue is the turn."""

    def peek(self, key: StateKey) -> Snapshot | None:
        """Return what is stored."""
        ...

    def apply(self, writes: Sequence[Write], remember: Sequence[Remember]) -> None:
        """Store writes and answers at once."""
        ...

    def put(self, key: StateKey, snapshot: Snapshot, ttl_s: float | None) -> None:
        """Store one state, at once."""
        ...

    def keep(self, names: Sequence[str], answer: Answer, ttl_s: float, owner: str) -> None:
        """Keep one answer, at once."""
        ...

    def records_now(self, names: Sequence[str]) -> list[bytes | None]:
        """Return small records by name."""
        ...

    def recall_all_now(self, names: Sequence[str]) -> dict[str, Answer]:
        """Return the answers kept, by name."""
        ...


class DatabaseSession(Protocol):
    """A handler's session on a database, which commits together with the states of its turn."""

    for_handler: Any
    """What the handler gets."""

    @property
    def store(self) -> Store:
        """Whose states it can commit in its own transaction."""
        ...

    @property
    def is_used(self) -> bool:
        """Whether there is anything to commit."""
        ...

    def call(self, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call a handler in a worker thread."""
        ...

    def explained(self, exc: BaseException) -> BaseException:
        """Return the package's own error for one of the database."""
        ...

    async def flush(self) -> None:
        """Send what waits to the database, where it may be refused."""

    async def commit_with(
        self, lease: Lease, writes: Sequence[Write], *, commit_id: str, remember: Sequence[Remember] = ()
    ) -> None:
        """Do what ``Store.commit`` does, in the session's transaction, and commit that."""

    async def commit_alone(self) -> None:
        """Commit the session where its states live elsewhere."""

    def abandon(self) -> None:
        """Never use the connection again: the handler's time is over, but it may still run."""

    async def end(self) -> None:
        """Undo what was not committed; idempotent."""


class Store(Protocol):
    """Keeps states, small records and idempotency answers.

    Promises: ``commit`` is atomic over all its writes and the answer to remember, and happens only if the lease still
    holds and each ``before`` is the stored version; what it wrote is what every later ``read`` and ``acquire`` in any
    process returns; a cancelled call leaves nothing half done; after ``aclose`` calls raise ``StoreUnavailableError``.
    All methods raise ``StoreUnavailableError`` when the store does not answer in time.
    """

    name: str
    is_shared: bool
    """Whether other processes see the same states."""
    immediate: ImmediateStore | None
    """The store itself if nothing in it ever waits, which makes leases needless; None for every other."""

    async def open(self) -> None:
        """Connect; idempotent."""

    async def aclose(self) -> None:
        """Disconnect; idempotent."""

    async def ping(self) -> None:
        """Raise ``StoreUnavailableError`` if the store does not answer."""

    async def read(self, keys: Sequence[StateKey]) -> list[Snapshot | None]:
        """Return what is stored, in one round trip."""
        ...

    async def acquire(self, keys: Sequence[StateKey], *, wait_s: float, recall: Sequence[str] = ()) -> Lease:
        """Take the turn on all keys, load them and the answers named ``recall``, in one round trip once it is free.

        Raises:
            OverloadedError: it was not free within ``wait_s``.
        """
        ...

    async def renew(self, lease: Lease) -> None:
        """Hold the turn for another lease time; ``LeaseLostError`` if it has passed to another."""

    async def commit(
        self,
        lease: Lease,
        writes: Sequence[Write],
        *,
        commit_id: str,
        remember: Sequence[Remember] = (),
        release: bool = True,
    ) -> None:
        """Store all writes and answers, or none, and release the turn.

        The same ``commit_id`` again changes nothing and succeeds.

        Raises:
            LeaseLostError: the turn has passed to another, or a version is not the one that was loaded.
        """

    async def release(self, lease: Lease) -> None:
        """Give the turn back without a change; a lease that was lost already is ignored."""

    async def recall(self, names: Sequence[str]) -> Answer | None:
        """Return the answer kept under any of the names."""
        ...

    async def recall_all(self, names: Sequence[str]) -> dict[str, Answer]:
        """Return the answers kept, by name."""
        ...

    async def remember(self, items: Sequence[Remember]) -> None:
        """Keep answers of events that changed nothing."""

    async def get_records(self, names: Sequence[str]) -> list[bytes | None]:
        """Return small records by name."""
        ...

    async def put_records(self, records: Mapping[str, tuple[bytes | None, float]]) -> None:
        """Store records (value, seconds to live) together; None deletes."""

    async def touch(self, keys: Sequence[tuple[StateKey, float]]) -> None:
        """Count watched states as written now, so that they do not expire."""

    async def delete_session(self, session_id: str, *, keep: Collection[StateKey] = ()) -> list[StateKey]:
        """Delete the session and component states of a session but those in ``keep``; return what there was."""
        ...

    async def purge(self, limit: int) -> int:
        """Delete at most ``limit`` expired entries; return how many."""
        ...

    async def count(self) -> int:
        """Return the number of stored states."""
        ...
