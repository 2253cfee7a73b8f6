"""What the runtime needs to know of one event: the call, its answer, and what is remembered of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.exceptions import HTTPException

from .echo import REMEMBERED_S, Typed, is_overtaken
from .errors import ArgumentError, FastStateError, OverloadedError, TurnTimeoutError
from .events import EventSpec
from .keys import StateKey, loggable
from .plans import StatePlan
from .state import ReactiveState
from .stores.base import Answer, Remember, Store
from .turns import Prepared, Turn
from .updates import Update

if TYPE_CHECKING:
    from .repeats import Claim

logger = logging.getLogger("faststate.events")

MAX_ANSWER_BYTES = 16 * 1024
REFUSALS = frozenset({401, 403, 413, 422, 429, 503})


class Call(Protocol):
    """One event to run, bound and checked as far as that needs no state; ``event_request.py`` implements it.

    ``names`` are those under which the answer is remembered, empty for none; ``owner`` is whose answers they are.
    ``typed`` numbers the requests of a tab for one field. ``claim`` keeps repetitions out that its turn does not.
    """

    plan: StatePlan
    spec: EventSpec
    key: StateKey
    names: tuple[str, ...]
    digest: bytes
    owner: str
    typed: Typed | None
    claim: Claim | None
    is_direct: bool
    """Whether nothing has to be waited for between the turn and the handler."""
    is_alone: bool
    """Whether it may not share a commit with others on its key."""

    @property
    def wanted(self) -> list[tuple[StatePlan, StateKey]]:
        """All states that change together, the event's own first."""
        ...

    def order_name(self) -> str:
        """Return the name under which the newest of a tab's requests for one field is remembered."""
        ...

    async def prepare(self, turn: Turn) -> tuple[ReactiveState, dict[str, Any]]:
        """Load and check the states, and return the handler's own and its arguments."""
        ...

    def prepare_now(self, turn: Turn) -> tuple[ReactiveState, dict[str, Any]]:
        """Do what ``prepare`` does, for a call that is direct."""
        ...

    def respond_one(self, update: Update | None) -> Answer:
        """Return the answer of an event that returned nothing and changed its own state, or nothing, and no other."""
        ...

    def respond(self, prepared: Prepared, result: Any) -> Answer:
        """Return the answer of what changed and what was returned; raise for what no page can show."""
        ...

    def emit(self, prepared: Prepared, yielded: Any) -> bytes:
        """Return the body of what changed and what a generator yielded."""
        ...

    def failed(self, exc: BaseException) -> Answer:
        """Return the answer of an exception."""
        ...

    def late_names(self) -> tuple[str, ...]:
        """Return more names of the answer, known after the handler has run (it may have made a session)."""
        ...

    def stream_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers of a generator's response; asked once, when the first body is ready."""
        ...

    def committed(self, updates: Sequence[Update]) -> None:
        """Hear what was committed."""
        ...


def concluded(call: Call, turn: Turn, result: Any) -> tuple[Prepared, Answer]:
    """Do all that can fail after a handler has returned and before the commit."""
    prepared = turn.prepare()
    return prepared, call.respond(prepared, result)


def remembered(call: Call, answer: Answer, ttl_s: float, *, has_failed: bool = False) -> tuple[Remember, ...]:
    """Return what a store is to remember of a call; an answer that is too large is remembered without its body."""
    items: tuple[Remember, ...] = ()
    if call.names:
        items = (Remember(names_to_keep(call), kept(answer), ttl_s, call.owner),)
    if call.typed is not None and not has_failed:
        newest = Answer(call.typed.number.encode(), 204)
        return (*items, Remember((call.order_name(),), newest, REMEMBERED_S))
    return items


def names_to_keep(call: Call) -> tuple[str, ...]:
    """Return the names under which a call's answer is remembered, once its handler has run."""
    names, late = call.names, call.late_names()
    return (*names, *late) if names and late and late[0] not in names else names


def kept(answer: Answer) -> Answer:
    """Return an answer as it is remembered: without its body if that is too large."""
    body = answer[3]
    return answer if body is None or len(body) <= MAX_ANSWER_BYTES else Answer(*answer[:3], None)


def names_to_recall(call: Call) -> tuple[str, ...]:
    """Return the names of all that tells whether a call still has to run."""
    return call.names if call.typed is None else (*call.names, call.order_name())


def known_answer(call: Call, known: Mapping[str, Answer]) -> Answer | None:
    """Return the answer of a call that needs not run: its request was answered before, or a newer one overtook it."""
    for name in call.names:
        answer = known.get(name)
        if answer is not None:
            return answer if answer.digest == call.digest else call.failed(reused())
    if call.typed is not None:
        newest = known.get(call.order_name())
        if newest is not None and is_overtaken(call.typed.number, newest.digest):
            return Answer(call.digest, 204)
    return None


async def recalled(answers: Store, call: Call) -> Answer | None:
    """Return the answer of a call that needs not run, None if it has to."""
    names = names_to_recall(call)
    return known_answer(call, await answers.recall_all(names)) if names else None


class _Asked(Protocol):
    """What was asked for by one request."""

    @property
    def digest(self) -> bytes:
        """The digest of that request."""
        ...


A = TypeVar("A", bound=_Asked)


def first_of(call: Call, known: Mapping[str, A]) -> A | None:
    """Return which of ``known``, by the names of calls, is for the same request.

    Raises:
        ArgumentError: another request under the same idempotency key.
    """
    for name in call.names:
        first = known.get(name)
        if first is not None:
            if first.digest != call.digest:
                raise reused()
            return first
    return None


def reused() -> FastStateError:
    """Return the refusal of a key that came with another request before."""
    return ArgumentError("This Idempotency-Key was used for another request")


def is_refusal(exc: BaseException) -> bool:
    """Whether the answer of an exception is not remembered, so that the same request may be tried again."""
    return isinstance(exc, HTTPException) and exc.status_code in REFUSALS


def is_cancelled() -> bool:
    """Whether the running task itself was cancelled, as opposed to something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def stopping() -> OverloadedError:
    """Return the refusal of a server that ends."""
    return OverloadedError("The server is stopping", headers={"Retry-After": "1"})


def timed_out(call: Call) -> TurnTimeoutError:
    """Return the error of a handler whose time is over, which is logged."""
    logger.error("event %s on %s timed out", call.spec.path, call.plan.name)
    return TurnTimeoutError(f"The event took longer than {call.spec.options.timeout_s:g} seconds")


def log_event(call: Call, updates: Sequence[Update], duration_s: float) -> None:
    """Log one event that was committed."""
    version = updates[0].version if updates else "-"
    key = loggable(call.key)
    logger.info(
        "event %s key=%s version=%s %.1f ms",
        call.spec.path,
        key,
        version,
        duration_s * 1000,
        extra={"event": call.spec.path, "key": key, "version": version, "duration_ms": duration_s * 1000},
    )
