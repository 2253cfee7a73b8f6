"""A transaction inside a turn on the same keys takes part in it: nothing is committed before the turn ends.

Only the task or thread that holds the turn can: what another one changes, the turn could neither wait for nor undo.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeAlias

from .bonds import bonded
from .errors import LeaseLostError, NestedTurnError
from .keys import StateKey, loggable
from .plans import StatePlan
from .state import ReactiveState
from .turns import Turn, Turns, current_turn

Caller: TypeAlias = "asyncio.Task[Any] | int | None"
"""A task, a thread by its number, or None for a handler that has not had to wait yet."""


def turn_of(turns: Turns, caller: Caller, wanted: Sequence[tuple[StatePlan, StateKey]]) -> Turn | None:
    """Return the turn that the caller holds on these states, None if it runs in none.

    Raises:
        NestedTurnError: the turn has not all of them, or is held by who started the caller.
    """
    turn = current_turn.get()
    if turn is None or not turn.is_active:
        return None
    if any(key not in turn.entries for _, key in wanted):
        turns.refuse_nested(wanted)
    if turn.holder != caller:
        held = ", ".join(loggable(key) for key in turn.keys)
        raise NestedTurnError(
            f"the code that started this task or thread holds the turn on {held}, so that only it can change this now; "
            "do it there, or start the task with create_task(..., context=contextvars.Context()) so that it waits for a "
            "turn of its own"
        )
    return turn


@contextmanager
def taking_part(turn: Turn, wanted: Sequence[tuple[StatePlan, StateKey]]) -> Generator[list[ReactiveState]]:
    """Give states of a turn to a block; if it raises, they are again as they were at its start.

    Raises:
        LeaseLostError: the turn ended before the block did.
    """
    states = [turn.entries[key].state for _, key in wanted]
    before = [(deepcopy(state.__dict__), bonded(state).deleted) for state in states]
    try:
        yield states
    except BaseException:
        if turn.is_active:
            for state, (values, is_deleted) in zip(states, before, strict=True):
                object.__setattr__(state, "__dict__", values)
                bonded(state).deleted = is_deleted
        raise
    if not turn.is_active:
        raise LeaseLostError(
            "The turn ended inside this transaction, by a yield or its timeout; begin it anew after that"
        )
