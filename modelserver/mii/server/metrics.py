"""Prometheus metrics under vLLM's well-known names, with the prefix `mii:`. An EngineListener."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from mii.core import EngineStats, RequestStats

FIRST_TOKEN_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
INTER_TOKEN_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_SECONDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
    40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
FINISHED_REASONS = ("stop", "length", "abort", "error")


class Metrics:
    """One server's metrics in a registry of their own."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._model_name = model_name
        self._steps = 0
        self._running = self._gauge("num_requests_running", "Requests in the running batch")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait to be scheduled")
        self._kv_usage = self._gauge("kv_cache_usage_perc", "KV blocks in use, 1 is all of them")
        self._queries = _Total(self._counter("prefix_cache_queries", "Prompt tokens looked up"))
        self._hits = _Total(self._counter("prefix_cache_hits", "Prompt tokens found in the prefix cache"))
        self._preemptions = _Total(self._counter("num_preemptions", "Preempted requests"))
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished requests")
        self._generation_tokens = self._counter("generation_tokens", "New tokens")
        success = Counter(
            "mii:request_success",
            "Finished requests by reason",
            ("model_name", "finished_reason"),
            registry=self.registry,
        )
        self._finished = {reason: success.labels(model_name, reason) for reason in FINISHED_REASONS}
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "Arrival to first token", FIRST_TOKEN_SECONDS
        )
        self._inter_token = self._histogram(
            "inter_token_latency_seconds", "Between tokens", INTER_TOKEN_SECONDS
        )
        self._end_to_end = self._histogram("e2e_request_latency_seconds", "Arrival to end", REQUEST_SECONDS)
        self._step_tokens = self._histogram("iteration_tokens_total", "Tokens per engine step", STEP_TOKENS)

    def on_step(self, stats: EngineStats) -> None:
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._kv_usage.set(stats.kv_cache_usage)
        self._queries.advance(stats.prefix_cache_queries)
        self._hits.advance(stats.prefix_cache_hits)
        self._preemptions.advance(stats.num_preemptions)
        if stats.steps != self._steps:  # heartbeats repeat the last step
            self._steps = stats.steps
            self._step_tokens.observe(stats.iteration_tokens)

    def on_tokens(self, *, first: bool, seconds: float, count: int) -> None:
        self._generation_tokens.inc(count)
        if first:
            self._first_token.observe(seconds)
        else:
            for _ in range(count):
                self._inter_token.observe(seconds / count)

    def on_finished(self, stats: RequestStats) -> None:
        self._prompt_tokens.inc(stats.prompt_tokens)
        self._finished[stats.finish_reason].inc()
        self._end_to_end.observe(stats.end_to_end)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition text and its content type, for a request's Accept header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"mii:{name}", text, ("model_name",), registry=self.registry).labels(self._model_name)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"mii:{name}", text, ("model_name",), registry=self.registry).labels(self._model_name)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"mii:{name}", text, ("model_name",), registry=self.registry, buckets=buckets)
        return histogram.labels(self._model_name)


class _Total:
    """A counter that follows a total kept elsewhere."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._seen = 0

    def advance(self, total: int) -> None:
        self._counter.inc(total - self._seen)
        self._seen = total
