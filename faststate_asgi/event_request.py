"""``EventRequest``: one HTTP request for one event, as the ``Call`` that the runtime runs.

Its gates, its data, and its states in the turn. What it is answered is in ``event_answers.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .errors import AuthenticationError, AuthorizationError, BadRequestError, StateNotFoundError
from .event_answers import AskedEvent
from .identity import check_guard, mark_of
from .incoming import Incoming
from .injected import injected_values, simple_value
from .keys import StateKey
from .parameters import Injected
from .plans import StatePlan
from .repeats import Claim
from .state import ReactiveState
from .turns import Turn

MAX_KEY_CHARS = 64
NOTHING = Incoming()


class EventRequest(AskedEvent):
    """One request for one event; lives until it is answered."""

    incoming = NOTHING
    claim: Claim | None = None
    names: tuple[str, ...] = ()
    optional: frozenset[StateKey] = frozenset()

    # -- before the turn ---------------------------------------------------------------------------------------------

    def pass_gates(self) -> None:
        """Pass every gate that comes before the data; session and identity are known.

        Raises:
            RequestError: at the first gate that refuses.
        """
        context, route, idempotency_key = self.context, self.route, self.idempotency_key
        if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_KEY_CHARS:
            raise BadRequestError(f"Idempotency-Key must have 1 to {MAX_KEY_CHARS} characters")
        if not route.is_open:
            check_guard(self.plan.guard, context.identity)
            check_guard(self.spec.options.guard, context.identity)
        session_id = context.made_session_id
        self.key = context.key_of(self.plan)
        self.owner = context.made_session_id or ""
        if idempotency_key is not None:
            if session_id is not None and context.presented_id in (session_id, None):
                # With its own cookie, or a program, which has one session for each user.
                self.names = (session_id + route.tail + idempotency_key,)
            elif context.is_nobody:
                self.names = (route.tail + idempotency_key,)
            else:
                self.names = self._names(route.tail + idempotency_key)
                if session_id is None and context.made_session_id is not None and self.engine.records_here is None:
                    # The same click at another process makes a session of its own there.
                    self.claim, self.is_alone = self.engine.new_claim(self.names[-1]), True
        if route.is_limited:
            self.engine.limit_rate(self.plan, self.spec, session_id or context.client_address)

    def _names(self, tail: str) -> tuple[str, ...]:
        """Return under which names the answer is remembered if the session is not the presented one.

        A first click has no session yet, and a click that logs in or out makes its own cookie worthless; the repetition
        may come with the old cookie or the new one, so it is found under both.
        """
        session_id, presented_id = self.context.made_session_id, self.context.presented_id
        user = self.context.user
        stranger = "" if user is None else mark_of(user)
        owners = dict.fromkeys(owner for owner in (session_id, presented_id or stranger) if owner is not None)
        return tuple(owner + tail for owner in owners)

    def take(self, incoming: Incoming) -> None:
        """Check the data and bind it; what the runtime needs is known then.

        Raises:
            RequestError: an argument, or another state, that is refused.
        """
        self.incoming, binder = incoming, self.route.binder
        if self.path_params:
            incoming.path = self.path_params
            incoming.digest += repr(sorted(self.path_params.items())).encode()
        self.digest = incoming.digest
        self.arguments = binder.bind(incoming)
        if binder.joins:
            self._join(binder.joins)

    def _join(self, joins: Sequence[Injected]) -> None:
        """Find the other states that change together with the event's own; an optional one that is refused does not."""
        required, optional = list[tuple[StatePlan, StateKey]](), list[tuple[StatePlan, StateKey]]()
        for item in joins:
            if not item.is_optional:
                required.append(self.joined_state(item))
                continue
            with suppress(AuthenticationError, AuthorizationError):
                optional.append(self.joined_state(item))
        self.joined = (*required, *optional)
        self.optional = frozenset(key for _, key in optional).difference(key for _, key in required)

    def joined_state(self, item: Injected) -> tuple[StatePlan, StateKey]:
        """Return another state that changes together with the event's own.

        Raises:
            RequestError: the caller may not change it.
        """
        assert item.state is not None, "joined parameters name a state"
        plan = self.engine.registry.plan(item.state)
        check_guard(plan.guard, self.context.identity)
        return plan, self.context.key_of(plan)

    def late_names(self) -> tuple[str, ...]:
        """Return the name under which the next request of the session that the handler made finds the answer."""
        session_id = self.context.made_session_id
        if session_id is None or session_id == self.owner:
            return ()
        return (f"{session_id}{self.route.tail}{self.idempotency_key}",)

    def order_name(self) -> str:
        """Return the name under which the newest request of this tab for this field is remembered."""
        assert self.typed is not None, "only setters are kept in order"
        return f"typed:{self.typed.tag}:{self.spec.bound_field}:{self.key}"

    # -- in the turn -------------------------------------------------------------------------------------------------

    async def prepare(self, turn: Turn) -> tuple[ReactiveState, dict[str, Any]]:
        """Load the states, check the caller's right to them, and complete the arguments."""
        for plan, key in self.wanted:
            try:
                await self._load(turn, plan, key)
            except (AuthenticationError, AuthorizationError, StateNotFoundError):
                if key not in self.optional or key == self.key:
                    raise
                turn.entries.pop(key, None)
                self.joined = tuple(pair for pair in self.joined if pair[1] != key)
        own = turn.entries[self.key]
        self.version = own.version
        if self.route.injected:
            return own.state, {**self.arguments, **await injected_values(self, turn)}
        return own.state, self.arguments

    async def _load(self, turn: Turn, plan: StatePlan, key: StateKey) -> None:
        """Load a state and check the caller's right to it."""
        entry = turn.load(plan, key)
        config = plan.config
        owner_only = plan is self.plan and self.spec.options.guard.owner_only
        if owner_only or config.owner_field is not None or config.authorize is not None:
            await self.context.authorize(plan, entry.state, "write", owner_only=owner_only)

    def prepare_now(self, turn: Turn) -> tuple[ReactiveState, dict[str, Any]]:
        """Do what ``prepare`` does, for a call that is direct."""
        own = turn.load(self.plan, self.key)
        self.version = own.version
        if self.route.injected:
            simple = {item.name: simple_value(self, item.source) for item in self.route.injected}
            return own.state, {**self.arguments, **simple}
        return own.state, self.arguments

    def lend_claim(self) -> None:
        """Let the handler's login or logout take the claim on this request."""
        if self.names and self.engine.records_here is None:
            if self.claim is None:
                self.claim = self.engine.new_claim(self.names[-1])
            self.context.claim = self.claim
