"""What the operator tells Prometheus."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """`resources` gives all MIIDeployments, counted by the reason of their condition Ready when asked for."""

    def __init__(self, resources: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(_ByState(resources))
        self.requests = Counter(
            "mii_operator_api_requests",
            "Requests to the API server",
            ("verb", "kind", "code"),
            registry=self._registry,
        )
        self.latency = Histogram(
            "mii_operator_change_to_applied_seconds",
            "From hearing of a change to everything applied",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.duration = Histogram(
            "mii_operator_reconcile_seconds", "One reconcile", buckets=_SECONDS, registry=self._registry
        )
        self.failures = Counter(
            "mii_operator_reconcile_failures", "Reconciles to be tried again", registry=self._registry
        )
        self.leader = Gauge("mii_operator_leader", "1 if this replica is the leader", registry=self._registry)

    def request(self, verb: str, kind: str, code: int) -> None:
        self.requests.labels(verb, kind, str(code)).inc()

    def exposition(self) -> bytes:
        return generate_latest(self._registry)


class _ByState(Collector):
    def __init__(self, resources: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self._resources = resources

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found = GaugeMetricFamily(
            "mii_operator_resources", "MIIDeployments by the reason of Ready", labels=("ready", "reason")
        )
        for (status, reason), count in Tally(map(_state, self._resources())).items():
            found.add_metric((status, reason), count)
        yield found


def _state(resource: Mapping[str, Any]) -> tuple[str, str]:
    conditions = (resource.get("status") or {}).get("conditions") or ()
    ready = next((c for c in conditions if c["type"] == "Ready"), None)
    return (ready["status"], ready["reason"]) if ready else ("Unknown", "New")
