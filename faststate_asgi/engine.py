"""``FastState``: the engine. Builds everything from the settings and owns it, from open to close.

What is stored where is ``backends.py``'s; the twin for threads is in ``sync.py``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import signal
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from threading import get_ident
from types import FrameType
from typing import Any, TypeVar

from .backends import Backends, every
from .bonds import Bond, bind
from .checks import findings
from .context import Wanted, unpacked
from .current import current_context
from .errors import ConfigurationError, FastStateError, StateNotFoundError, StoreUnavailableError, shorten
from .events import EventSpec
from .guards import Guard
from .hub import Hub
from .identity import SessionCookie, logouts_of, mark_of
from .keys import StateKey, StateScope, checked_id
from .limits import RateLimiter, parse_rate
from .messages import Ended
from .metrics import exposition
from .plans import StatePlan
from .registry import StateRegistry, state_registry
from .repeats import Claim
from .runtime import Runtime
from .settings import MIN_KEY_BYTES, Settings, make_settings
from .state import ReactiveState
from .steps import ended
from .stores.base import DatabaseSession, ImmediateStore, Snapshot, Store
from .subapp import LocalScript, SubApp, quoted_mount
from .sync import SyncFastState
from .transports.base import Transport
from .turns import Turns, delete_held
from .updates import Update
from .watchdog import Watchdog

logger = logging.getLogger("faststate")
S = TypeVar("S", bound=ReactiveState)
TICK_S = 0.25
SHORT_TTL_S = 4.0
PURGE_LIMIT = 1000
OVERLOADED_S = 5.0
MAX_TO_SHOW = 1000


class _Outside:
    """What actions and pages see where no request is served: a fragment that another process's change redraws."""

    def __init__(self, engine: FastState) -> None:
        self._engine = engine

    @property
    def mount_url(self) -> str:
        """Where the last request found the sub-application."""
        return self._engine.last_mount_url

    @property
    def heartbeat_s(self) -> float:
        """The silence after which a stream sends something."""
        return self._engine.settings.heartbeat

    @property
    def script_url(self) -> str:
        """Where the Datastar module comes from."""
        return self._engine.script_url(self.mount_url)

    async def check(self, guard: Guard) -> None:
        """Refuse: there is nobody to let pass."""
        raise ConfigurationError("@requires_auth works inside a request only")

    def check_from_thread(self, guard: Guard) -> None:
        """Refuse: there is nobody to let pass."""
        raise ConfigurationError("@requires_auth works inside a request only")


class FastState:
    """The engine: one per app and process, used by the middleware or by ``async with`` in a script.

    Args:
        registry: the state classes; by default those of ``state_registry``.
        settings: every setting of the README's table by name.

    Raises:
        ConfigurationError: an unknown setting or a value that cannot work.
    """

    def __init__(self, *, registry: StateRegistry | None = None, **settings: Any) -> None:
        self.settings: Settings = make_settings(settings)
        self.registry = state_registry if registry is None else registry
        if not isinstance(self.registry, StateRegistry):  # pyright: ignore[reportUnnecessaryIsInstance]  # not everybody checks types
            raise ConfigurationError(f"registry must be a StateRegistry, not {shorten(registry)}")
        self.subapp = SubApp(self)
        self.local_script = LocalScript(self.settings.datastar_url) if self.settings.is_datastar_local else None
        self.last_mount_url = self.settings.mount_path
        self._cookie: SessionCookie | None = None
        self.backends = Backends(self.settings, self.registry)
        self._limiter = RateLimiter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self._opening: asyncio.Lock | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._previous_handlers: dict[int, Any] = {}
        self._hub: Hub | None = None
        self._runtime: Runtime | None = None
        self._watchdog: Watchdog | None = None
        self._users = 0
        self._to_show: deque[Update] = deque(maxlen=MAX_TO_SHOW)
        self._showing: asyncio.Task[None] | None = None
        self.records_here: ImmediateStore | None = None
        """The same as ``records`` if nothing in it has to be waited for."""

    def wrap_backends(self, store: Callable[[Store], Store], transport: Callable[[Transport], Transport]) -> None:
        """Put something around every store and transport; for tests that break them.

        Raises:
            ConfigurationError: the engine is open.
        """
        if self._loop is not None:
            raise ConfigurationError("the engine is open: stores can be wrapped before that only")
        self.backends.wrap(store, transport)

    # -- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> FastState:
        self._users += 1
        try:
            await self.ensure_open()
        except BaseException:
            self._users -= 1
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._users -= 1
        if self._users == 0:
            await self.aclose()

    def is_open_here(self) -> bool:
        """Whether everything runs on this event loop."""
        # One loop at most runs in a thread; asking for the running one would be a call of the system.
        return self._thread_id == get_ident() and self._loop is not None and self._loop.is_running()

    async def ensure_open(self) -> None:
        """Start what has not been started on this event loop; cheap when all runs."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._opening is None or self._loop is not None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._loop is not loop:
                await self._open(loop)

    def check(self) -> None:
        """Look for what would keep the engine from working.

        Raises:
            ConfigurationError: a setting that only shows now, such as a missing file or too many workers for memory.
        """
        self.backends.check()
        if self.local_script is not None:
            self.local_script.content()

    async def ensure_serving(self) -> None:
        """Start what a request needs; a server that sends no lifespan stops by its signal alone."""
        await self.ensure_open()
        self.chain_signals()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            await self._leave(self._loop)
        self.check()
        for finding in findings(self.registry):
            logger.warning("%s", finding)
        settings = self.settings
        hub = self._hub = Hub(
            self.backends.read, self.load, write_deadline_s=settings.write_deadline, heartbeat_s=settings.heartbeat
        )
        hub.watch, hub.unwatch = self.backends.watch, self.backends.unwatch
        self.backends.spare(hub.is_watched)
        announce = self._announce if self.backends.transports else hub.publish
        turns = Turns(self.backends.store_of, settings.max_waiting_per_key, announce, settings.session_max_age)
        runtime = self._runtime = Runtime(turns, hub, self.backends.records, settings.idempotency_ttl)
        await self.backends.open(hub.receive)
        self.records_here = self.backends.records.immediate
        current_context.set(current_context.get() or _Outside(self))
        self._loop, self._thread_id = loop, get_ident()
        if self._watchdog is not None:
            self._watchdog.stop()
        self._watchdog = Watchdog(loop, runtime.event_of)
        self._watchdog.start()
        self._in_background(self._tick_for_ever())
        if self.backends.transports:
            self._in_background(every(settings.lease / 3, "renewing leases", runtime.turns.renew))
            self._in_background(every(settings.resync_interval, "comparing versions", self._resync))
        logger.info("open: %s", ", ".join(self.backends.stores))

    async def _leave(self, former: asyncio.AbstractEventLoop) -> None:
        """Let go of what ran on a loop that is gone: a test client without a lifespan has one for each request."""
        self._background.clear()
        self._to_show.clear()
        self._showing = None
        if former.is_closed():
            if self._watchdog is not None:
                self._watchdog.stop()
            if self._runtime is not None:
                self._runtime.close_workers()
            await self.backends.leave()

    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a task that ends with the engine."""
        self._background.add(asyncio.get_running_loop().create_task(coroutine))

    def _announce(self, updates: Sequence[Update]) -> None:
        """Tell the streams of this process what was committed, and those of others what to show besides."""
        self.hub.publish(updates)
        for update in updates:
            if update.elements:
                self._to_show.append(update)
        if self._to_show and (self._showing is None or self._showing.done()):
            self._showing = self.loop.create_task(self._show())

    async def _show(self) -> None:
        """Pass on in the order of the commits."""
        while self._to_show:
            updates = list(self._to_show)
            self._to_show.clear()
            await self.backends.show(updates)

    async def _resync(self) -> None:
        await self.backends.resync(self.hub)

    async def aclose(self) -> None:
        """Stop everything; idempotent. Running events get ``drain_timeout`` to end."""
        if self._loop is None:
            return
        self.restore_signals()
        await self.drain()
        if self._watchdog is not None:
            self._watchdog.stop()
        await ended(self._background)
        self._background.clear()
        await self.runtime.aclose()
        if self._showing is not None:
            await self._showing
        await self.hub.aclose()
        await self.backends.aclose()
        self._loop = None

    async def drain(self) -> None:
        """Refuse new events, end all streams, and wait for events that run."""
        self.begin_drain()
        await self.runtime.drain(self.settings.drain_timeout)

    def begin_drain(self) -> None:
        """Refuse new events from now on and end all streams, each with its own random reconnection delay."""
        if self._runtime is None or self._runtime.is_draining:
            return
        self._runtime.is_draining = True
        self.hub.end_all()
        # A server waits for running requests before it says that the lifespan is over, so the clock runs from here.
        self.loop.call_later(self.settings.drain_timeout, self._runtime.give_up)

    def settle_memory(self) -> None:
        """Tell the garbage collector of a server's process, once, that what there is at start-up stays.

        Its full collections would go through all imported code again and again: a quarter of the time of an event.
        """
        if gc.get_freeze_count() == 0 and signal.SIGTERM in self._previous_handlers:
            gc.collect()
            gc.freeze()

    def chain_signals(self) -> None:
        """Hear of SIGTERM and SIGINT before the server begins to wait for open streams.

        A server waits for its open responses before it sends the lifespan's shutdown, so streams must end earlier.
        The previous handler is called as well. Only the main thread can do this; elsewhere streams end by their age.
        Called again, it does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)
            if callable(previous) and number not in self._previous_handlers:
                self._previous_handlers[number] = previous
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.begin_drain)
        previous = self._previous_handlers.get(number)
        if callable(previous):
            previous(number, frame)

    def restore_signals(self) -> None:
        """Put the previous signal handlers back where ours are still in place; elsewhere ours go on calling them."""
        if threading.current_thread() is threading.main_thread():
            for number, previous in list(self._previous_handlers.items()):
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, previous)
                    del self._previous_handlers[number]

    async def _tick_for_ever(self) -> None:
        """Heartbeats, ages and expiry; supervised: an error is logged and the loop goes on."""
        tick_s = min(
            TICK_S, self.settings.heartbeat / 4, self.settings.reauthenticate / 4, self.settings.max_stream_age / 4
        )
        elapsed_s = 0.0
        while True:
            await asyncio.sleep(tick_s)
            elapsed_s += tick_s
            try:
                await self.hub.tick()
                await self._keep_watched(all_of_them=elapsed_s >= 1)
                if elapsed_s >= 1:
                    elapsed_s = 0.0
                    await self._keep_house()
            except StoreUnavailableError as exc:
                logger.warning("expired states stay for now: %s", exc)
            except Exception:
                logger.exception("a background tick failed")

    async def _keep_watched(self, *, all_of_them: bool) -> None:
        """Keep watched states from expiring; those with a very short ``ttl`` are touched more often."""
        watched = [(m.plan, m.key, m.plan.config.ttl) for m in self.hub.watched if m.streams]
        lasting = [(p, key, ttl) for p, key, ttl in watched if ttl is not None and (all_of_them or ttl < SHORT_TTL_S)]
        if lasting:
            await self.backends.touch(lasting)

    async def _keep_house(self) -> None:
        """Purge what has expired."""
        await self.backends.purge(PURGE_LIMIT)
        self.hub.forget_answered()

    # -- parts -------------------------------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the engine runs on."""
        if self._loop is None:
            raise ConfigurationError("the engine is not open: use `async with FastState(...) as faststate:`")
        return self._loop

    @property
    def hub(self) -> Hub:
        """The process's fan-out."""
        if self._hub is None:
            raise ConfigurationError("the engine is not open: use `async with FastState(...) as faststate:`")
        return self._hub

    @property
    def runtime(self) -> Runtime:
        """What runs events and transactions."""
        if self._runtime is None:
            raise ConfigurationError("the engine is not open: use `async with FastState(...) as faststate:`")
        return self._runtime

    @property
    def records(self) -> Store:
        """Where sessions, logins and idempotency answers are kept."""
        return self.backends.records

    @property
    def cookie(self) -> SessionCookie:
        """Signs and verifies session cookies."""
        if self._cookie is None:
            self.require_secret_key()
            settings = self.settings
            self._cookie = SessionCookie(
                settings.secret_key,
                settings.cookie_name,
                idle_s=settings.session_idle,
                max_age_s=settings.session_max_age,
            )
        return self._cookie

    def require_secret_key(self) -> None:
        """Raise ``ConfigurationError`` if requests cannot be served for want of a key."""
        if not self.settings.secret_key:
            raise ConfigurationError(
                f"secret_key is missing: pass secret_key= or set FASTSTATE_SECRET_KEY to {MIN_KEY_BYTES} bytes or more "
                '(python -c "import secrets; print(secrets.token_urlsafe(48))"), or use debug=True on your own machine'
            )

    def mount_url_of(self, scope: Any) -> str:
        """Return where the sub-application is for a request."""
        root_path = scope.get("root_path", "")
        url = quoted_mount(root_path, self.settings.mount_path) if root_path else self.settings.mount_path
        self.last_mount_url = url
        return url

    def script_url(self, mount_url: str) -> str:
        """Return where pages load the Datastar client from."""
        if self.local_script is None:
            return self.settings.datastar_url
        self.local_script.content()
        return f"{mount_url}/datastar.js?v={self.local_script.digest}"

    # -- reading -----------------------------------------------------------------------------------------------------

    def load(self, plan: StatePlan, snapshot: Snapshot | None, key: StateKey | None = None) -> ReactiveState | None:
        """Return a read-only state; None if it was never stored and has no default.

        Raises:
            StoreUnavailableError: what is stored cannot be read; other keys are not affected.
        """
        if snapshot is None:
            if not plan.has_default:
                return None
            state = plan.new(key)
            bond = Bond(key, read_only=True, namespace=plan.namespace)
        else:
            state, _ = plan.loaded(snapshot.data, snapshot.shape)
            bond = Bond(key, snapshot.version, read_only=True, namespace=plan.namespace)
        bind(state, bond)
        return state

    async def read(self, plan: StatePlan, key: StateKey) -> ReactiveState | None:
        """Return the read-only copy of one stored state, or its default, or None."""
        try:
            snapshot = await self.backends.read(plan, key)
        except StoreUnavailableError:
            # What a stream of this process watches is known here too.
            mirror = self.hub.mirror_of(key)
            if mirror is None:
                raise
            snapshot = None if mirror.data is None else Snapshot(mirror.version, mirror.data, mirror.shape)
        return self.load(plan, snapshot, key)

    # -- for code without a request ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(
        self,
        *wanted: Wanted,
        user_id: Any = None,
        session_id: str | None = None,
        record_id: Any = None,
        component_id: Any = None,
    ) -> AsyncGenerator[Any]:
        """Give private copies of states that change together when the block ends, and not if it raises.

        Nobody is asked for rights here: this is for your own code outside of any request.

        Args:
            wanted: a class, or several; ``(Product, 42)`` names a record or component.
            user_id: for user states.
            session_id: for session and component states.
            record_id: for a single record state.
            component_id: for a single component state.

        Yields:
            The state, or a tuple of states.
        """
        await self.ensure_open()
        pairs = self.pairs(
            wanted, user_id=user_id, session_id=session_id, record_id=record_id, component_id=component_id
        )
        async with self.runtime.transaction(pairs) as states:
            yield states[0] if len(states) == 1 else tuple(states)

    def pairs(
        self,
        wanted: Sequence[Wanted],
        *,
        user_id: Any = None,
        session_id: str | None = None,
        record_id: Any = None,
        component_id: Any = None,
    ) -> list[tuple[StatePlan, StateKey]]:
        """Return classes and keys of what ``transaction`` was asked for.

        Raises:
            ConfigurationError: an id is missing, or belongs to none of several classes.
        """
        return [
            (plan, _key_outside(plan, own_id, user_id=user_id, session_id=session_id))
            for plan, own_id in unpacked(self.registry.plan, tuple(wanted), record_id, component_id)
        ]

    async def get(
        self,
        cls: type[S],
        *,
        user_id: Any = None,
        session_id: str | None = None,
        record_id: Any = None,
        component_id: Any = None,
    ) -> S:
        """Return a read-only copy outside of any request.

        Raises:
            StateNotFoundError: never created, and there is no default.
        """
        await self.ensure_open()
        ((plan, own_id),) = unpacked(self.registry.plan, (cls,), record_id, component_id)
        state = await self.read(plan, _key_outside(plan, own_id, user_id=user_id, session_id=session_id))
        if state is None:
            raise StateNotFoundError(f"{plan.name} does not exist")
        return state  # type: ignore[return-value]  # loaded for cls

    async def delete(
        self,
        cls: type[ReactiveState],
        *,
        user_id: Any = None,
        session_id: str | None = None,
        record_id: Any = None,
        component_id: Any = None,
    ) -> None:
        """Delete a stored state, also one that cannot be read; pages that watch it get the defaults."""
        await self.ensure_open()
        pairs = self.pairs(
            (cls,), user_id=user_id, session_id=session_id, record_id=record_id, component_id=component_id
        )
        async with self.runtime.transaction(pairs, is_read=False) as (state,):
            state.delete()

    async def clear_session_states(self, session_id: str) -> int:
        """Delete the session and component states of a session, and return how many there were.

        Those that the running event itself holds are deleted when it commits.
        """
        await self.ensure_open()
        held = delete_held(session_id)
        keys = await self.backends.delete_session(session_id, held)
        for mirror in self.hub.watched:
            if mirror.key in keys:
                self.hub.reload(mirror)
        return len(keys) + len(held)

    async def end_streams(self, which: Ended) -> None:
        """End streams in every process."""
        self.hub.end_streams(which)
        await self.backends.publish([which])

    async def logout_user(self, user_id: Any) -> None:
        """End every login of a user, in all browsers and processes: for "log out everywhere" and closed accounts.

        Cookies that ``login`` made are worthless from now on, and all streams of the user end; they open again only as
        far as the user may still watch. Who ``authenticate`` finds by other means stays logged in for as long as it does.
        """
        await self.ensure_open()
        name = logouts_of(mark_of(str(user_id)))
        await self.records.put_records({name: (secrets.token_hex(8).encode(), self.settings.session_max_age)})
        await self.end_streams(Ended(user_id=str(user_id)))

    @property
    def sync(self) -> SyncFastState:
        """The twin for worker threads."""
        return SyncFastState(self)

    # -- around ------------------------------------------------------------------------------------------------------

    def limit_rate(self, plan: StatePlan, spec: EventSpec, caller: str) -> None:
        """Count one call; ``RateLimitedError`` if the caller makes too many."""
        own = parse_rate(spec.options.rate_limit, spec.path)
        if own is not None:
            self._limiter.take(own, caller, spec.path)
        if plan.rate is not None:
            self._limiter.take(plan.rate, caller, plan.name)

    def new_claim(self, name: str) -> Claim:
        """Return a claim on the request whose answer has this name; it is not taken yet."""
        return Claim(self.runtime.turns, self.backends.records, name)

    def database_session(self, *, is_async: bool) -> DatabaseSession:
        """Return a database session that commits with the event.

        Raises:
            ConfigurationError: there is no database.
        """
        return self.backends.database_session(is_async=is_async)

    async def health(self) -> dict[str, Any]:
        """Return the state of each store by name; ``"overloaded"`` if events were refused lately because others wait."""
        try:
            await self.ensure_open()
            stores = await self.backends.health(self.settings.store_timeout)
        except (FastStateError, OSError):
            stores = dict.fromkeys(self.backends.stores, "down")
        is_draining = self._runtime is not None and self._runtime.is_draining
        status = "stopping" if is_draining else "ok" if set(stores.values()) == {"ok"} else "down"
        if status == "ok" and self._runtime is not None and self._runtime.turns.mailboxes.has_refused(OVERLOADED_S):
            status = "overloaded"
        return {"status": status, "stores": stores}

    async def stats(self) -> dict[str, Any]:
        """Return numbers for people who run the app; no ids of anybody."""
        runtime, hub = self.runtime, self.hub
        return {
            "events_run": runtime.events_run,
            "events_active": runtime.active,
            "waiting": runtime.turns.mailboxes.waiting,
            "streams": hub.stream_count,
            "watched_states": len(hub.watched),
            "deliveries": hub.deliveries,
            "stored_states": await self.backends.count(),
            "evicted_states": self.backends.evicted,
            "registered_states": len(self.registry),
        }

    async def metrics_page(self) -> tuple[str, bytes]:
        """Return content type and text of the numbers in Prometheus' format."""
        return exposition(await self.stats())


def _key_outside(plan: StatePlan, own_id: Any, *, user_id: Any, session_id: str | None) -> StateKey:
    """Return a key made of explicit ids.

    Raises:
        ConfigurationError: one that the scope needs is missing, or one that it does not have is given.
    """

    def need(value: Any, name: str) -> str:
        if value is None:
            raise ConfigurationError(f"{plan.name} has {plan.scope.value} scope: pass {name}=")
        return checked_id(str(value), name)

    plan.check_own_id(own_id)
    match plan.scope:
        case StateScope.GLOBAL:
            return StateKey(StateScope.GLOBAL, plan.name)
        case StateScope.SESSION:
            return StateKey(StateScope.SESSION, plan.name, session_id=need(session_id, "session_id"))
        case StateScope.USER:
            return StateKey(StateScope.USER, plan.name, user_id=plan.row_id(need(user_id, "user_id")))
        case StateScope.COMPONENT:
            session, own = need(session_id, "session_id"), need(own_id, "component_id")
            return StateKey(StateScope.COMPONENT, plan.name, session_id=session, component_id=own)
        case StateScope.RECORD:
            return StateKey(StateScope.RECORD, plan.name, record_id=plan.row_id(need(own_id, "record_id")))


def get_state_info(registry: StateRegistry | None = None, engine: FastState | None = None) -> dict[str, Any]:
    """Return what a debugger wants to see: registered classes with their scopes, and how many copies are held."""
    known = registry or (engine.registry if engine is not None else state_registry)
    return {
        "registered_states": [{"class_name": plan.name, "scope": plan.scope.value} for plan in known.plans],
        "cached_instances": 0 if engine is None else len(engine.hub.watched),
    }
