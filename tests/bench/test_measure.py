"""Percentiles and summaries, from records made by hand."""

import numpy as np
import pytest

from mii.bench.measure import Record, full_load_end, percentile, summarize, token_gaps


@pytest.mark.parametrize(
    ("samples", "q", "expected"),
    [
        ([5.0], 1, 5.0),
        ([5.0], 99, 5.0),
        ([3.0, 1.0, 2.0, 4.0], 50, 2.0),  # nearest rank: the 2nd of 4
        ([3.0, 1.0, 2.0, 4.0], 51, 3.0),
        ([3.0, 1.0, 2.0, 4.0], 75, 3.0),
        (list(range(1, 101)), 95, 95.0),
        (list(range(1, 101)), 99, 99.0),
        (list(range(1, 101)), 100, 100.0),
        ([], 50, None),
    ],
)
def test_percentile_is_nearest_rank(samples: list[float], q: float, expected: float | None) -> None:
    assert percentile(np.array(samples), q) == expected


@pytest.mark.parametrize(
    ("weights", "q", "expected"),
    [([1, 1, 1], 50, 20.0), ([8, 1, 1], 50, 10.0), ([1, 1, 8], 50, 30.0), ([1, 8, 1], 10, 10.0)],
)
def test_percentile_counts_weights(weights: list[float], q: float, expected: float) -> None:
    assert percentile(np.array([10.0, 20.0, 30.0]), q, np.array(weights, float)) == expected


def test_a_chunk_per_token_gives_the_gaps_themselves() -> None:
    record = Record(started=0.0, ended=1.0, arrivals=[0.1, 0.2, 0.5], new_tokens=3)
    gaps, weights = token_gaps([record])
    np.testing.assert_allclose(gaps, [0.1, 0.3])
    np.testing.assert_allclose(weights, [1.0, 1.0])


def test_tokens_are_spread_evenly_over_chunks() -> None:
    record = Record(started=0.0, ended=1.0, arrivals=[0.0, 0.4, 0.8], new_tokens=9)
    gaps, weights = token_gaps([record])
    np.testing.assert_allclose(gaps, [0.1, 0.1])  # 8 gaps between tokens in 0.8 s
    assert weights.sum() == pytest.approx(8)


def test_a_single_chunk_has_no_gap() -> None:
    gaps, _ = token_gaps([Record(started=0.0, ended=1.0, arrivals=[0.5], new_tokens=7)])
    assert len(gaps) == 0


def test_summary() -> None:
    records = [
        Record(
            started=10.0, ended=12.0, arrivals=[10.5, 11.0], prompt_tokens=100, new_tokens=2, cached_tokens=64
        ),
        Record(started=11.0, ended=14.0, arrivals=[12.5, 13.0], prompt_tokens=300, new_tokens=2),
    ]
    summary = summarize(records, clients=2, client_cpu=0.1)
    assert summary.requests == 2
    assert summary.wall_seconds == 4.0
    assert summary.full_load_seconds == 2.0  # from 12.0 on, a client has nothing to do
    assert summary.requests_per_second == pytest.approx((1 + 1 / 3) / 2)
    assert summary.output_tokens_per_second == pytest.approx((2 + 2 / 3) / 2)
    assert summary.prompt_tokens_per_second == pytest.approx((100 + 300 / 3) / 2)
    assert summary.prompt_tokens_mean == 200
    assert summary.cached_tokens_mean == 32
    assert summary.latency_mean == 2.5
    assert (summary.latency_p50, summary.latency_p95) == (2.0, 3.0)
    assert (summary.ttft_p50, summary.ttft_p95) == (0.5, 1.5)
    assert summary.itl_p99 == 0.5


@pytest.mark.parametrize(
    ("ends", "clients", "expected"),
    [([1, 2, 3, 4], 1, 4), ([4, 1, 3, 2], 2, 3), ([1, 2, 3, 4], 4, 1), ([1, 2], 5, 2), ([], 3, 0)],
)
def test_full_load_ends_when_a_client_has_nothing_left(
    ends: list[float], clients: int, expected: float
) -> None:
    assert full_load_end([Record(started=0.0, ended=end) for end in ends], clients) == expected


def test_rates_do_not_depend_on_how_the_last_requests_end() -> None:
    """Two clients, each request 1 s and 10 tokens: 20 tokens/s, with or without a straggler."""
    steady = [Record(started=t, ended=t + 1.0, new_tokens=10) for t in (0.0, 0.0, 1.0, 1.0, 2.0)]
    straggler = Record(started=2.0, ended=6.0, new_tokens=40)
    assert summarize([*steady, straggler], clients=2).output_tokens_per_second == pytest.approx(20)


def test_failed_requests_count_as_errors_and_nothing_else() -> None:
    records = [
        Record(started=0.0, ended=1.0, arrivals=[0.5], new_tokens=10, prompt_tokens=5),
        Record(started=0.0, ended=2.0, arrivals=[0.1], new_tokens=99, error="first"),
        Record(started=0.0, ended=2.0, error="second"),
    ]
    summary = summarize(records, clients=1)
    assert (summary.requests, summary.errors, summary.first_error) == (1, 2, "first")
    assert summary.output_tokens_per_second == 5.0  # the wall time includes the failed ones
    assert summary.ttft_p95 == 0.5


def test_nothing_succeeded() -> None:
    summary = summarize([Record(started=0.0, ended=1.0, error="no")], clients=1)
    assert summary.latency_mean is None
    assert summary.itl_p50 is None
    assert summary.requests_per_second == 0.0
