"""``FastState``: the engine. Builds everything from the settings and owns it, from open to close.

What is stored where is ``backends.py``'s; the twin for threads is in ``sync.py``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from threading import get_ident
from typing import Any, TypeVar

from .announcer import Announcer
from .backends import Backends
from .bonds import Bond, bind
from .checks import findings
from .current import current_context
from .errors import ConfigurationError, StateNotFoundError, StoreUnavailableError, shorten
from .events import EventSpec
from .housekeeping import Housekeeping
from .hub import Hub
from .identity import SessionCookie, logouts_of, mark_of
from .keys import StateKey
from .limits import RateLimiter, parse_rate
from .messages import Ended
from .metrics import exposition
from .outside import Outside, pairs_outside
from .plans import StatePlan
from .registry import StateRegistry, state_registry
from .repeats import Claim
from .runtime import Runtime
from .settings import MIN_KEY_BYTES, Settings, make_settings
from .state import ReactiveState
from .stop_signals import StopSignals
from .stores.base import DatabaseSession, ImmediateStore, Snapshot, Store
from .subapp import LocalScript, SubApp, quoted_mount
from .sync import SyncFastState
from .transports.base import Transport
from .turns import Turns, delete_held
from .vitals import health_of, stats_of
from .wanted import Wanted

logger = logging.getLogger("faststate")
S = TypeVar("S", bound=ReactiveState)


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
        self._signals = StopSignals(self._drain_soon)
        self._hub: Hub | None = None
        self._runtime: Runtime | None = None
        self._announcer: Announcer | None = None
        self._housekeeping: Housekeeping | None = None
        self._users = 0
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
        self._announcer = Announcer(hub, self.backends)
        announce = self._announcer.announce if self.backends.transports else hub.publish
        turns = Turns(self.backends.store_of, settings.max_waiting_per_key, announce, settings.session_max_age)
        runtime = self._runtime = Runtime(turns, self.backends.records, settings.idempotency_ttl)
        await self.backends.open(hub.receive)
        self.records_here = self.backends.records.immediate
        current_context.set(current_context.get() or Outside(self))
        self._loop, self._thread_id = loop, get_ident()
        self._housekeeping = Housekeeping(settings, self.backends, hub, runtime)
        self._housekeeping.start()
        logger.info("open: %s", ", ".join(self.backends.stores))

    async def _leave(self, former: asyncio.AbstractEventLoop) -> None:
        """Let go of what ran on a loop that is gone: a test client without a lifespan has one for each request."""
        if self._housekeeping is not None:
            self._housekeeping.leave()
        if former.is_closed():
            self.runtime.close_workers()
            await self.backends.leave()

    async def aclose(self) -> None:
        """Stop everything; idempotent. Running events get ``drain_timeout`` to end."""
        if self._loop is None:
            return
        self.restore_signals()
        await self.drain()
        if self._housekeeping is not None:
            await self._housekeeping.aclose()
        await self.runtime.aclose()
        if self._announcer is not None:
            await self._announcer.aclose()
        await self.hub.aclose()
        await self.backends.aclose()
        self._loop = None

    @property
    def is_draining(self) -> bool:
        """Whether new events are refused because the process is about to stop."""
        return self._runtime is not None and self._runtime.is_draining

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
        if gc.get_freeze_count() == 0 and self._signals.is_in_server:
            gc.collect()
            gc.freeze()

    def chain_signals(self) -> None:
        """Hear of SIGTERM and SIGINT before the server begins to wait for open streams; called again, it does nothing."""
        self._signals.chain()

    def _drain_soon(self) -> None:
        """Begin to drain; called in a signal handler."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.begin_drain)

    def restore_signals(self) -> None:
        """Put the server's own signal handlers back."""
        self._signals.restore()

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
        pairs = pairs_outside(self.registry, wanted, user_id, session_id, record_id, component_id)
        async with self.runtime.transaction(pairs) as states:
            yield states[0] if len(states) == 1 else tuple(states)

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
        ((plan, key),) = pairs_outside(self.registry, (cls,), user_id, session_id, record_id, component_id)
        state = await self.read(plan, key)
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
        pairs = pairs_outside(self.registry, (cls,), user_id, session_id, record_id, component_id)
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
        return await health_of(self)

    async def stats(self) -> dict[str, Any]:
        """Return numbers for people who run the app; no ids of anybody."""
        return await stats_of(self)

    async def metrics_page(self) -> tuple[str, bytes]:
        """Return content type and text of the numbers in Prometheus' format."""
        return exposition(await self.stats())
