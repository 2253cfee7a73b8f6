"""An event that runs in one process, and a repetition of its request that reaches another, where no turn keeps it out.

Of a generator the turn is free between two steps. With each step's commit a note is remembered in place of the answer;
who finds the note waits for the answer instead of running the handler again.

Two requests of one click have different turns if each makes a session of its own, or if the first one logs in or out, which
makes the cookie of the second worthless. These take a ``Claim``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from .calls import Call, known_answer, names_to_recall, recalled
from .errors import ConflictError, FastStateError
from .keys import StateKey, StateScope
from .stores.base import Answer, Lease, Remember, Store
from .turns import Turns

logger = logging.getLogger("faststate.events")

RUNNING = 102
"""The status of a note: 102 Processing (RFC 2518), never sent to anybody."""
LOOK_AGAIN_S = (0.02, 0.5)
PATIENCE_S = 10.0


def running_note(call: Call, step: int, ttl_s: float) -> tuple[Remember, ...]:
    """Return what is remembered as long as a generator runs; the step's number shows others that it goes on."""
    note = Answer(call.digest, RUNNING, (), str(step).encode())
    return (Remember(call.names, note, ttl_s, call.owner),) if call.names else ()


async def answer_of_other(answers: Store, call: Call, note: Answer) -> Answer:
    """Return the answer of a generator that runs in another process, once it is there.

    Args:
        answers: where it will be.
        call: the repetition.
        note: what was found in its place.
    """
    loop = asyncio.get_running_loop()
    changed_at, pause_s = loop.time(), LOOK_AGAIN_S[0]
    while loop.time() - changed_at < call.spec.options.timeout_s + PATIENCE_S:
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LOOK_AGAIN_S[1])
        found = await recalled(answers, call)
        if found is not None and found.status != RUNNING:
            return found
        if found is not None and found.body != note.body:
            note, changed_at = found, loop.time()
    return call.failed(interrupted())


class Claim:
    """The right to be the only one that runs a request, at every process; lives from before its handler until it is answered.

    Its lease is renewed like that of a turn, so that a process that dies holds nobody up for long.

    Args:
        turns: renew its lease.
        answers: the store of idempotency answers, a shared one.
        name: of the answer, which all requests of the click know.
    """

    def __init__(self, turns: Turns, answers: Store, name: str) -> None:
        self._turns, self._answers, self._name = turns, answers, name
        self._lease: Lease | None = None

    @property
    def is_held(self) -> bool:
        """Whether it has to be given back."""
        return self._lease is not None

    async def take(self, wait_s: float = PATIENCE_S, recall: Sequence[str] = ()) -> Mapping[str, Answer]:
        """Wait until nobody else has it, and return the answers that are remembered then.

        Args:
            wait_s: how long to wait.
            recall: names of answers.

        Raises:
            OverloadedError: somebody else has it for longer.
        """
        digest = blake2b(self._name.encode(), digest_size=16).hexdigest()
        key = StateKey(StateScope.RECORD, "Idempotency-Key", record_id=digest)  # no class can have that name
        lease = self._lease = await self._answers.acquire((key,), wait_s=wait_s, recall=recall)
        self._turns.hold(lease, self._answers)
        return lease.answers

    async def give_back(self) -> None:
        """Let others have it; idempotent."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        self._turns.forget(lease)
        try:
            await self._answers.release(lease)
        except FastStateError as exc:
            logger.warning("a repeated request may have to wait for its answer: %s", exc)


async def claimed(call: Call) -> Answer | None:
    """Take the claim that a call needs, if any; return its answer if another process has one, or the note that it will."""
    claim = call.claim
    if claim is None:
        return None
    wait_s = call.spec.options.timeout_s + PATIENCE_S
    known = await claim.take(wait_s, names_to_recall(call))
    answer = known_answer(call, known) if known else None
    if answer is not None:
        await claim.give_back()
    return answer


async def answer_of_first(answers: Store, call: Call) -> Answer | None:
    """Return what is remembered of a call, once it has ended; None for nothing."""
    found = await recalled(answers, call)
    if found is not None and found.status == RUNNING:
        return await answer_of_other(answers, call, found)
    return found


def interrupted() -> ConflictError:
    """Return the failure of a generator that did not come to its end."""
    return ConflictError("The event was interrupted; some of its steps may have been made")
