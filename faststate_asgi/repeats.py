"""A generator event that runs in one process, and a repetition of its request that reaches another.

The turn is free between two steps, so the turn alone does not keep a repetition out. With each step's commit a note is
remembered in place of the answer; who finds the note waits for the answer instead of running the handler again.
"""

from __future__ import annotations

import asyncio

from .calls import Call, recalled
from .errors import ConflictError
from .stores.base import Answer, Remember, Store

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


def interrupted() -> ConflictError:
    """Return the failure of a generator that did not come to its end."""
    return ConflictError("The event was interrupted; some of its steps may have been made")
