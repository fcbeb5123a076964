"""Lengths and prompts are drawn from the seed alone."""

from itertools import islice
from statistics import mean, stdev

import pytest

from mii.bench.workload import FASTGEN, Workload, jobs, ordinary_ids, parse_workload


def drawn(count: int, *, workload: str = "1200/60", spread: float = 0.3, **keywords: object) -> list[object]:
    return list(islice(jobs(parse_workload(workload, spread), **{"seed": "0", **keywords}), count))


def test_lengths_follow_the_stated_distribution() -> None:
    lengths = [job.prompt_tokens for job in drawn(4000)]
    assert mean(lengths) == pytest.approx(1200, rel=0.03)
    assert stdev(lengths) == pytest.approx(360, rel=0.05)
    assert mean(job.new_tokens for job in drawn(4000)) == pytest.approx(60, rel=0.03)


def test_token_id_prompts_have_exactly_the_drawn_length_and_range() -> None:
    vocabulary = ordinary_ids(49152)
    for job in drawn(50, vocabulary=vocabulary):
        assert len(job.prompt) == job.prompt_tokens
        assert all(token in vocabulary for token in job.prompt)


def test_word_prompts_have_a_word_per_token() -> None:
    for job in drawn(20):
        assert len(job.prompt.split()) == job.prompt_tokens


def test_same_seed_same_jobs_other_seed_others() -> None:
    assert drawn(20) == drawn(20)
    assert drawn(20) != drawn(20, seed="1")


def test_prompts_share_no_prefix() -> None:
    first = [tuple(job.prompt[:8]) for job in drawn(200, vocabulary=range(1000, 40000))]
    assert len(set(first)) == 200


def test_zero_spread_fixes_the_lengths() -> None:
    assert {(job.prompt_tokens, job.new_tokens) for job in drawn(50, spread=0.0)} == {(1200, 60)}


def test_lengths_are_at_least_one() -> None:
    assert min(job.new_tokens for job in drawn(500, workload="1/1", spread=1.0)) == 1


@pytest.mark.parametrize("limit", [2, 100, 1000])
def test_limit_holds(limit: int) -> None:
    for job in drawn(300, limit=limit):
        assert job.prompt_tokens >= 1
        assert job.new_tokens >= 1
        assert job.prompt_tokens + job.new_tokens <= limit


@pytest.mark.parametrize("size", [4, 64, 49152, 128256])
def test_ordinary_ids_leave_out_both_ends(size: int) -> None:
    ids = ordinary_ids(size)
    assert len(ids) >= 1
    assert 0 < ids[0] <= ids[-1] < size - 1
    assert ids[-1] < 128000  # where Llama-3's special tokens begin


@pytest.mark.parametrize("text", FASTGEN)
def test_fastgen_workloads_parse(text: str) -> None:
    assert str(parse_workload(text)) == text


@pytest.mark.parametrize("text", ["", "5", "5/", "a/b", "0/5", "5/-1", "1/2/3"])
def test_bad_workload_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"PROMPT/NEW|at least 1"):
        parse_workload(text)


def test_workload_is_comparable() -> None:
    assert parse_workload("5/6") == Workload(prompt_mean=5, new_mean=6)
