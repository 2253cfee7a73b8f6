"""``RequestContext``: what ``scope["faststate"]`` is: a visit with its states and transactions.

Everything is lazy. The four doors (reading, event, stream, transaction) all check by the two methods ``check`` and
``authorize`` of this class.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, TypeVar

from .errors import (
    AuthenticationError,
    AuthorizationError,
    LoginRedirect,
    OverloadedError,
    RequestError,
    StateNotFoundError,
    StoreUnavailableError,
)
from .from_thread import run_from_thread
from .guards import Guard
from .identity import check_guard, new_session_id
from .keys import (
    StateKey,
    StateScope,
    checked_id,
    component_key,
    global_key,
    record_key,
    session_key,
    user_key,
)
from .login_page import login_target, login_target_from
from .own_ids import own_id_of, path_params_of
from .parameters import states_of
from .plans import StatePlan
from .state import ReactiveState
from .stores.base import Snapshot
from .turns import Entry
from .visit import FROM_THREAD_S, Visit
from .wanted import Wanted, unpacked

logger = logging.getLogger("faststate")

S = TypeVar("S", bound=ReactiveState)
Action = Literal["read", "write", "watch"]
_AGET = "this is the event loop: use `await State.aget(request)` in async handlers"


class RequestContext(Visit):
    """Session, identity and states of one request; made by the middleware, gone with the request.

    Args:
        engine: the engine that serves the request.
        scope: its ASGI scope.
        kind: what the request is; a stream never makes a session, an event always may.
    """

    # One is made for every request: what most of them do not have is a default of the class.
    _ephemeral_id: str | None = None
    _states: dict[StateKey, ReactiveState] | None = None
    _ahead: dict[StateKey, Snapshot | None] | None = None
    _dumps: dict[StateKey, bytes] | None = None
    path_params: dict[str, Any] | None = None
    refused: RequestError | None = None

    def __repr__(self) -> str:
        return f"<RequestContext {'resolved' if self._is_resolved else 'not resolved'}>"

    def close(self) -> None:
        """Let go of the scope, which refers to this object; in debug, report copies that were changed in place."""
        self._mount_url = self.mount_url
        self._scope, self.refused = {}, None
        if self._dumps:
            self._report_changes()

    def _forget(self) -> None:
        self._states = None

    def _report_changes(self) -> None:
        for key, state in (self._states or {}).items():
            before = (self._dumps or {}).get(key)
            if before is not None and type(state).__faststate_codec__().dump(state) != before:
                logger.warning(
                    "%s was changed in place while a page was made; it is a read-only copy and the change is lost: "
                    "use an event or a transaction",
                    type(state).__name__,
                )

    # -- keys and doors ----------------------------------------------------------------------------------------------

    def key_of(self, plan: StatePlan, record_id: Any = None, component_id: Any = None) -> StateKey:
        """Return the key of a class's state in this request.

        Raises:
            MissingParameterError: no record or component id.
            AuthenticationError: a user state and nobody is logged in.
        """
        scope = plan.scope
        if scope is StateScope.SESSION:
            self.was_session_used = True
            return session_key(plan.name, self.made_session_id or self._session_or_ephemeral())
        if scope is StateScope.GLOBAL:
            return global_key(plan.name)
        match scope:
            case StateScope.USER:
                user = self.user
                if user is None:
                    raise AuthenticationError("Please log in first")
                return user_key(plan.name, plan.row_id(checked_id(user, "user id")))
            case StateScope.COMPONENT:
                return component_key(plan.name, self._session_or_ephemeral(), self._own_id(plan, component_id))
            case StateScope.RECORD:
                return record_key(plan.name, plan.row_id(self._own_id(plan, record_id)))

    def _session_or_ephemeral(self) -> str:
        """Return the session's id; where none may be made, one that lives as long as the request."""
        session_id = self.session_id
        if session_id is None:
            if self._ephemeral_id is None:
                self._ephemeral_id = new_session_id()
            return self._ephemeral_id
        return session_id

    def _own_id(self, plan: StatePlan, given: Any) -> str:
        return own_id_of(
            plan, given, self.path_params or self._scope.get("path_params") or {}, self._scope.get("query_string", b"")
        )

    async def check(self, guard: Guard) -> None:
        """Let the caller pass or raise; a page with ``login_url`` is sent there."""
        await self.resolve()
        self.check_now(guard)

    def check_now(self, guard: Guard) -> None:
        """Let the caller pass or raise, once ``resolve`` has run."""
        if guard.is_open:
            return
        try:
            check_guard(guard, self.identity)
        except AuthenticationError as exc:
            raise self.refusal(exc) from None

    def check_from_thread(self, guard: Guard) -> None:
        """Do the same from a worker thread."""
        self._resolved()
        self.check_now(guard)

    def refusal(self, exc: AuthenticationError) -> AuthenticationError:
        """Return the error as this request should get it: a redirect for a page with ``login_url``."""
        login_url = self.engine.settings.login_url
        if login_url is None or not self.is_page or isinstance(exc, LoginRedirect):
            return exc
        return LoginRedirect(str(exc.detail), headers={"Location": self.login_target()})

    def login_target(self) -> str:
        """Return ``login_url`` with a ``next`` that leads back to this request's page, on this site only."""
        return login_target(self._login_url, self._scope)

    def login_target_from(self, referer: str | None) -> str:
        """Return ``login_url`` with a ``next`` that leads back to the page an event came from, on this site only."""
        return login_target_from(self._login_url, self._scope, self.header(b"host"), referer)

    @property
    def _login_url(self) -> str:
        return self.engine.settings.login_url or "/"

    async def authorize(
        self, plan: StatePlan, state: ReactiveState, action: Action, *, owner_only: bool = False
    ) -> None:
        """Check owner and ``authorize`` on a loaded state; the guard was checked before.

        Raises:
            AuthenticationError: nobody is logged in.
            AuthorizationError: not for this user.
        """
        config = plan.config
        if config.owner_field is None and config.authorize is None and not owner_only:
            return
        if config.owner_field is not None or owner_only:
            owner, user = plan.owner_of(state), self.user
            if user is None:
                raise self.refusal(AuthenticationError("Please log in first"))
            if owner is None or owner != user:
                raise AuthorizationError("This belongs to somebody else")
        if config.authorize is not None:
            assert state.key is not None, "loaded states have keys"
            result = config.authorize(self.identity, state.key, action)
            if not (await result if inspect.isawaitable(result) else result):
                if self.identity is None:
                    raise self.refusal(AuthenticationError("Please log in first"))
                raise AuthorizationError("You may not do this")

    # -- states ------------------------------------------------------------------------------------------------------

    async def get(self, cls: type[S], *, record_id: Any = None, component_id: Any = None) -> S:
        """Return the read-only copy of a state in this request; the same object each time.

        Raises:
            AuthenticationError, AuthorizationError: not for this caller.
            MissingParameterError: no record or component id.
            StateNotFoundError: never created, and there is no default.
        """
        await self.resolve()
        plan = self.engine.registry.plan(cls)
        self.check_now(plan.guard)
        key = self._key_or_refusal(plan, record_id, component_id)
        if self._states is None:
            self._states = {}
        known = self._states.get(key)
        if known is None:
            if self._ahead is not None and key in self._ahead:
                known = self.engine.load(plan, self._ahead.pop(key), key)
            else:
                known = await self.engine.read(plan, key)
            if known is None:
                raise StateNotFoundError(f"{plan.name} does not exist")
            await self.authorize(plan, known, "read")
            first = self._states.setdefault(key, known)
            if first is not known:
                return first  # type: ignore[return-value]  # asked for at the same time, and read sooner
            if self.engine.settings.debug:
                self._dumps = {**(self._dumps or {}), key: plan.codec.dump(known)}
        return known  # type: ignore[return-value]  # loaded for cls

    async def read_ahead(self, cls: type[ReactiveState]) -> None:
        """Read, once and in one round trip, all states that the route asks for in its signature, before the first is given.

        What cannot be read ahead, or may not be, is left to ``get``.
        """
        if self._ahead is not None:
            return
        self._ahead = {}
        classes = states_of(self._scope.get("endpoint"))
        if len(classes) < 2 or cls not in classes:
            return
        await self.resolve()
        wanted: dict[StateKey, StatePlan] = {}
        store = self.engine.backends.store_of(self.engine.registry.plan(cls))
        for other in classes:
            plan = self.engine.registry.plan(other)
            if self.engine.backends.store_of(plan) is store:
                with suppress(RequestError):
                    self.check_now(plan.guard)
                    wanted[self.key_of(plan)] = plan
        with suppress(StoreUnavailableError):
            self._ahead.update(zip(wanted, await store.read(list(wanted)), strict=True))

    def _key_or_refusal(self, plan: StatePlan, record_id: Any, component_id: Any) -> StateKey:
        plan.check_own_id(record_id if component_id is None else component_id)
        try:
            return self.key_of(plan, record_id, component_id)
        except AuthenticationError as exc:
            raise self.refusal(exc) from None

    async def get_injected(self, request: Any, cls: type[S]) -> S:
        """Return what ``get_for`` returns, for a parameter of a route."""
        if self.path_params is None:
            self.path_params = path_params_of(request)
        await self.read_ahead(cls)
        return await self.get_for(request, cls)

    async def get_for(self, request: Any, cls: type[S], *, record_id: Any = None, component_id: Any = None) -> S:
        """Return what ``get`` returns, for a route of any framework.

        Quart and Django keep the parameters of the path in the request, and make a 500 of a refusal that they do not
        know: the middleware puts that right.
        """
        if self.path_params is None:
            self.path_params = path_params_of(request)
        try:
            return await self.get(cls, record_id=record_id, component_id=component_id)
        except RequestError as exc:
            self.refused = exc
            raise

    def get_from_thread(self, request: Any, cls: type[S], *, record_id: Any = None, component_id: Any = None) -> S:
        """Return what ``get_for`` returns, in a worker thread."""
        coroutine = self.get_for(request, cls, record_id=record_id, component_id=component_id)
        state: S = run_from_thread(self.engine, coroutine, _AGET, FROM_THREAD_S)
        return state

    async def get_or_none(self, cls: type[S], *, record_id: Any = None, component_id: Any = None) -> S | None:
        """Return what ``get`` returns, or None where the caller may not see it."""
        try:
            return await self.get(cls, record_id=record_id, component_id=component_id)
        except (AuthenticationError, AuthorizationError, StateNotFoundError):
            return None

    @asynccontextmanager
    async def transaction(
        self, *wanted: Wanted, record_id: Any = None, component_id: Any = None
    ) -> AsyncGenerator[Any]:
        """Give private copies of states that change together when the block ends, and not if it raises.

        Args:
            wanted: a class, or several; ``(Product, 42)`` names a record or component.
            record_id: for a single class.
            component_id: for a single class.

        Yields:
            The state, or a tuple of states.
        """
        if self.engine.runtime.is_draining:
            raise OverloadedError("The server is stopping; please try again", headers={"Retry-After": "1"})
        await self.resolve()
        pairs: list[tuple[StatePlan, StateKey]] = []
        for plan, own_id in unpacked(self.engine.registry.plan, wanted, record_id, component_id):
            self.check_now(plan.guard)
            is_record = plan.scope is StateScope.RECORD
            pairs.append(
                (plan, self._key_or_refusal(plan, own_id if is_record else None, None if is_record else own_id))
            )
        async with self.engine.runtime.transaction(pairs, self._check_write) as states:
            yield states[0] if len(states) == 1 else tuple(states)
        if self._states is not None:
            for _, key in pairs:
                self._states.pop(key, None)
        self._ahead = None if self._ahead is None else {}

    async def _check_write(self, entry: Entry) -> None:
        await self.authorize(entry.plan, entry.state, "write")

    async def delete(self, cls: type[ReactiveState], *, record_id: Any = None, component_id: Any = None) -> None:
        """Delete a stored state; pages that watch it get the defaults."""
        async with self.transaction(cls, record_id=record_id, component_id=component_id) as state:
            state.delete()
