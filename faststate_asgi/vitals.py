"""How an engine is: the health of its stores, numbers for people who run the app, what a debugger wants to see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import FastStateError
from .registry import StateRegistry, state_registry

if TYPE_CHECKING:
    from .engine import FastState

OVERLOADED_S = 5.0


async def health_of(engine: FastState) -> dict[str, Any]:
    """Return the state of each store by name; ``"overloaded"`` if events were refused lately because others wait."""
    backends = engine.backends
    try:
        await engine.ensure_open()
        stores = await backends.health(engine.settings.store_timeout)
    except (FastStateError, OSError):
        stores = dict.fromkeys(backends.stores, "down")
    status = "stopping" if engine.is_draining else "ok" if set(stores.values()) == {"ok"} else "down"
    if status == "ok" and engine.runtime.turns.mailboxes.has_refused(OVERLOADED_S):
        status = "overloaded"
    return {"status": status, "stores": stores}


async def stats_of(engine: FastState) -> dict[str, Any]:
    """Return numbers for people who run the app; no ids of anybody."""
    runtime, hub, backends = engine.runtime, engine.hub, engine.backends
    return {
        "events_run": runtime.events_run,
        "events_active": runtime.active,
        "waiting": runtime.turns.mailboxes.waiting,
        "streams": hub.stream_count,
        "watched_states": len(hub.watched),
        "deliveries": hub.deliveries,
        "stored_states": await backends.count(),
        "evicted_states": backends.evicted,
        "registered_states": len(engine.registry),
    }


def get_state_info(registry: StateRegistry | None = None, engine: FastState | None = None) -> dict[str, Any]:
    """Return what a debugger wants to see: registered classes with their scopes, and how many copies are held."""
    known = registry or (engine.registry if engine is not None else state_registry)
    return {
        "registered_states": [{"class_name": plan.name, "scope": plan.scope.value} for plan in known.plans],
        "cached_instances": 0 if engine is None else len(engine.hub.watched),
    }
