"""One request as the access log and the metrics see it. Never bodies, queries nor credentials."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mii_gateway.lifecycle import Lifecycle
from mii_gateway.metrics import Metrics

access_log = logging.getLogger("mii_gateway.access")


@dataclass(kw_only=True)
class Record:
    protocol: str  # http | grpc
    method: str
    path: str
    request_id: str
    client: str
    status: str = "UNKNOWN"  # what gRPC says of a fault of our own; HTTP always sets one
    key: str = ""  # the name of the API key
    replica: str | None = None
    failures: list[str] = field(default_factory=list)  # of earlier attempts
    bytes_in: int = 0
    bytes_out: int = 0
    output_tokens: int = 0  # by estimate
    queue_seconds: float = 0.0
    upstream_seconds: float = 0.0  # waiting for replicas before the first byte
    first_byte_seconds: float | None = None
    error: str | None = None
    began: float = field(default_factory=time.perf_counter)
    received: float = 0.0

    def got_body(self, size: int) -> None:
        """The request is complete: from here on the gateway's own time counts."""
        self.bytes_in = size
        self.received = time.perf_counter()

    def queued(self, seconds: float) -> None:
        self.queue_seconds += seconds

    @contextmanager
    def upstream(self) -> Iterator[None]:
        """Times an attempt up to its first byte."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.upstream_seconds += time.perf_counter() - began

    def first_byte(self) -> None:
        """Sent to the client just now."""
        self.first_byte_seconds = time.perf_counter() - self.began

    @property
    def overhead_seconds(self) -> float | None:
        """What the gateway itself added before the first byte; the client's upload does not count."""
        if self.first_byte_seconds is None:
            return None
        since_received = self.first_byte_seconds - (self.received - self.began)
        return since_received - self.queue_seconds - self.upstream_seconds


class Recorder:
    """Opens and closes records."""

    def __init__(self, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._metrics = metrics
        self._lifecycle = lifecycle

    @contextmanager
    def record(self, record: Record) -> Iterator[Record]:
        """The request counts as open inside, and is logged and measured at the end."""
        with self._lifecycle.open_request():
            try:
                yield record
            finally:
                self._measure(record)
                if access_log.isEnabledFor(logging.INFO):
                    access_log.info("request", extra={"fields": _fields(record)})

    def _measure(self, record: Record) -> None:
        self._metrics.requests.labels(record.status, record.protocol).inc()
        if record.key:
            self._metrics.key_requests.labels(record.key).inc()
            self._metrics.key_output_tokens.labels(record.key).inc(record.output_tokens)
        self._metrics.queue_wait.observe(record.queue_seconds)
        if record.overhead_seconds is not None:
            self._metrics.upstream_ttfb.observe(record.upstream_seconds)
            self._metrics.overhead.observe(max(record.overhead_seconds, 0.0))


def _fields(record: Record) -> dict[str, object]:
    return {
        "protocol": record.protocol,
        "method": record.method,
        "path": record.path,
        "request_id": record.request_id,
        "client": record.client,
        "key": record.key,
        "status": record.status,
        "replica": record.replica,
        "failures": record.failures,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "seconds": round(time.perf_counter() - record.began, 6),
        "queue_seconds": round(record.queue_seconds, 6),
        "first_byte_seconds": record.first_byte_seconds and round(record.first_byte_seconds, 6),
        "error": record.error,
    }
