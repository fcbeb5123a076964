"""What the gateway measures, in Prometheus' terms."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mii_gateway.queue import ReplicaQueue
from mii_gateway.replicas import ReplicaTable, State

_FINE = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_COARSE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counters and histograms that requests touch; gauges are read from the source when scraped."""

    def __init__(self, table: ReplicaTable, queue: ReplicaQueue) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(table, queue))
        self.requests = Counter(
            "mii_gateway_requests_total",
            "Requests ended, by final status: HTTP's number (499: the client left; 502 and 504 also for"
            " streams cut short) or gRPC's name",
            ("code", "protocol"),
            registry=self._registry,
        )
        self.key_requests = Counter(
            "mii_gateway_key_requests_total",
            "Requests ended, by the API key's name (never the key)",
            ("key",),
            registry=self._registry,
        )
        self.key_output_tokens = Counter(
            "mii_gateway_key_output_tokens_total",
            "Tokens answered, by estimate",
            ("key",),
            registry=self._registry,
        )
        self.retries = Counter(
            "mii_gateway_retries_total",
            "Attempts on another replica, by what failed before",
            ("reason",),
            registry=self._registry,
        )
        self.queue_wait = self._histogram("queue_wait_seconds", "Waiting for a replica", _COARSE)
        self.upstream_ttfb = self._histogram(
            "upstream_ttfb_seconds", "From sending a request to a replica to its first byte", _COARSE
        )
        self.overhead = self._histogram(
            "overhead_seconds", "The gateway's own part of the time to the first byte", _FINE
        )

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"mii_gateway_{name}", text, buckets=buckets, registry=self._registry)


class _Gauges(Collector):
    def __init__(self, table: ReplicaTable, queue: ReplicaQueue) -> None:
        self._table = table
        self._queue = queue

    def collect(self) -> Iterator[GaugeMetricFamily]:
        in_flight = GaugeMetricFamily(
            "mii_gateway_in_flight", "Requests on a replica now", labels=["replica"]
        )
        utilization = GaugeMetricFamily(
            "mii_gateway_utilization",
            "Share of a replica's capacity that this gateway's requests use, as autoscaling counts it",
            labels=["replica"],
        )
        for replica in self._table.all():
            in_flight.add_metric([replica.name], replica.streams)
            utilization.add_metric([replica.name], replica.utilization)
        yield in_flight
        yield utilization
        replicas = GaugeMetricFamily("mii_gateway_replicas", "Replicas by state", labels=["state"])
        counts = self._table.count()
        for state in State:
            replicas.add_metric([state], counts[state])
        yield replicas
        yield GaugeMetricFamily(
            "mii_gateway_queue_depth", "Requests that wait for a replica", value=len(self._queue)
        )
