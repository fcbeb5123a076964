"""From what each request did to what a level of load achieved. Pure.

Percentiles are nearest-rank: the smallest sample that at least q % of the weight does not exceed.

One chunk of a stream may carry several tokens, and only the total is known (from the usage). So a request's
n tokens are taken to be spread evenly over its k chunks: the k − 1 gaps between chunks stand for n − 1 gaps
between tokens, each sample being gap · (k − 1)/(n − 1) with weight (n − 1)/(k − 1). With a chunk per token
these are the gaps themselves; their weighted mean is always (last chunk − first chunk)/(n − 1).

Rates are of full load: from the first request's start until a client first has nothing left to send. A
request that runs beyond that counts with the share of its time that lies before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class Record:
    """One request. Times are seconds of one monotonic clock."""

    started: float
    ended: float = 0.0
    arrivals: list[float] = field(default_factory=list)  # of chunks with text; empty if nothing streams
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One level. Times in seconds; None where nothing could be measured (no success, or no streaming)."""

    clients: int
    requests: int  # that succeeded
    errors: int
    first_error: str | None
    wall_seconds: float  # from the first request's start to the last one's end
    full_load_seconds: float  # of these, with all clients busy
    requests_per_second: float
    output_tokens_per_second: float
    prompt_tokens_per_second: float
    prompt_tokens_mean: float | None  # as the server counted them
    cached_tokens_mean: float | None  # of these, from the server's prefix cache
    new_tokens_mean: float | None
    latency_mean: float | None
    latency_p50: float | None
    latency_p95: float | None
    ttft_p50: float | None  # time to first token: from sending to the first chunk with text
    ttft_p95: float | None
    itl_p50: float | None  # inter-token latency
    itl_p95: float | None
    itl_p99: float | None
    client_cpu: float | None = None  # cores that the measuring process itself used


def summarize(records: Sequence[Record], *, clients: int, client_cpu: float | None = None) -> Summary:
    good = [record for record in records if record.error is None]
    errors = [record.error for record in records if record.error is not None]
    start = min((r.started for r in records), default=0.0)
    end = max((r.ended for r in records), default=0.0)
    full = full_load_end(records, clients) - start
    shares = [share(r, start + full) for r in good]
    latency = np.array([r.ended - r.started for r in good])
    first = np.array([r.arrivals[0] - r.started for r in good if r.arrivals])
    gaps, weights = token_gaps(good)
    prompt = [r.prompt_tokens for r in good]
    new = [r.new_tokens for r in good]
    return Summary(
        clients=clients,
        requests=len(good),
        errors=len(errors),
        first_error=errors[0] if errors else None,
        wall_seconds=end - start,
        full_load_seconds=full,
        requests_per_second=_rate(sum(shares), full),
        output_tokens_per_second=_rate(float(np.dot(shares, new)), full),
        prompt_tokens_per_second=_rate(float(np.dot(shares, prompt)), full),
        prompt_tokens_mean=_mean(prompt),
        cached_tokens_mean=_mean([r.cached_tokens for r in good]),
        new_tokens_mean=_mean(new),
        latency_mean=_mean(latency),
        latency_p50=percentile(latency, 50),
        latency_p95=percentile(latency, 95),
        ttft_p50=percentile(first, 50),
        ttft_p95=percentile(first, 95),
        itl_p50=percentile(gaps, 50, weights),
        itl_p95=percentile(gaps, 95, weights),
        itl_p99=percentile(gaps, 99, weights),
        client_cpu=client_cpu,
    )


def full_load_end(records: Sequence[Record], clients: int) -> float:
    """When fewer than `clients` requests were left to end; the very end if there never were as many."""
    ends = sorted(record.ended for record in records)
    if not ends:
        return 0.0
    return ends[-clients] if len(ends) >= clients else ends[-1]


def share(record: Record, end: float) -> float:
    """How much of the request's time lies before `end`, 0 to 1."""
    return min(1.0, max(0.0, end - record.started) / max(record.ended - record.started, 1e-9))


def token_gaps(records: Iterable[Record]) -> tuple[Floats, Floats]:
    """Samples of inter-token latency and their weights, by the rule above. A single chunk gives none."""
    samples: list[Floats] = [np.empty(0)]
    weights: list[Floats] = [np.empty(0)]
    for record in records:
        gaps = np.diff(record.arrivals)
        if len(gaps) == 0:
            continue
        tokens_per_gap = max(record.new_tokens - 1, 1) / len(gaps)
        samples.append(gaps / tokens_per_gap)
        weights.append(np.full(len(gaps), tokens_per_gap))
    return np.concatenate(samples), np.concatenate(weights)


def percentile(samples: Floats, q: float, weights: Floats | None = None) -> float | None:
    """Nearest rank, weighted; None without samples. `q` in percent."""
    if len(samples) == 0:
        return None
    order = np.argsort(samples, kind="stable")
    if weights is None:
        weights = np.ones(len(samples))
    reached = np.cumsum(weights[order])
    rank = int(np.searchsorted(reached, reached[-1] * q / 100 * (1 - 1e-12)))
    return float(samples[order[min(rank, len(samples) - 1)]])


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _mean(values: Sequence[float] | Floats) -> float | None:
    return float(np.mean(values)) if len(values) else None
