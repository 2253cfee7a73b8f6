"""The numbers that ``/faststate/metrics`` shows, in Prometheus' text format."""

from __future__ import annotations

from typing import Any

from .errors import MissingDependencyError

_HELP = {
    "events_run": "Events that ran to their commit",
    "events_active": "Events that run or wait",
    "waiting": "Events that wait for their turn",
    "streams": "Open streams",
    "watched_states": "States that a stream watches",
    "deliveries": "Frames handed to streams",
    "stored_states": "Stored states",
    "evicted_states": "States that a full memory store has forgotten",
    "registered_states": "Registered state classes",
}
_COUNTERS = frozenset({"events_run", "deliveries", "evicted_states"})


def exposition(stats: dict[str, Any]) -> tuple[str, bytes]:
    """Return content type and body for a scraper.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    except ImportError as exc:
        raise MissingDependencyError("metrics need prometheus-client: pip install 'faststate-asgi[metrics]'") from exc

    class Stats:
        """Turns the numbers into metric families."""

        def collect(self) -> Any:
            for name, value in stats.items():
                family = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
                yield family(f"faststate_{name}", _HELP.get(name, name), value=value)

    registry = CollectorRegistry()
    registry.register(Stats())
    return CONTENT_TYPE_LATEST, generate_latest(registry)
