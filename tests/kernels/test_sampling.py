"""The sampling operations against a naive implementation that shares nothing with them but the definition."""

import math

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from mii_kernels import ops
from mii_kernels.reference import sampling
from mii_kernels.reference.philox import philox4x32, uniform

VOCAB = 40


def naive_probabilities(logits, temperature, top_k=0, top_p=1.0, min_p=0.0):
    """logits [vocab] -> [vocab] float64, by sorting."""
    z = (logits.astype(np.float64) - logits.max()) / temperature
    p = np.exp(z) / np.exp(z).sum()
    if top_k:
        p = np.where(p >= np.sort(p)[::-1][min(top_k, len(p)) - 1], p, 0)
        p /= p.sum()
    if top_p < 1:
        descending = np.sort(p)[::-1]
        last = np.searchsorted(descending.cumsum(), top_p)
        p = np.where(p >= descending[last], p, 0)
        p /= p.sum()
    p = np.where(p >= min_p * p.max(), p, 0)
    return p / p.sum()


def draw(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seeds=None, positions=None):
    """Every filter is passed, also those that are off."""
    n = logits.shape[0]
    return ops.sample(
        logits,
        torch.full((n,), temperature),
        torch.full((n,), top_k, dtype=torch.int32),
        torch.full((n,), top_p),
        torch.full((n,), min_p),
        torch.arange(n) if seeds is None else seeds,
        torch.zeros(n, dtype=torch.int64) if positions is None else positions,
    )


def chi_square(observed, expected):
    """The statistic as a standard normal deviate (Wilson-Hilferty); rare outcomes count as one."""
    assert observed[expected == 0].sum() == 0, "a token was drawn that the filters exclude"
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    freedom = len(expected) - 1
    if freedom == 0:
        return 0.0
    statistic = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


@pytest.fixture(params=["candidates", "radix search"])
def search(request, monkeypatch):
    """Both ways to find a limit: one candidate is never enough, so the second way is taken."""
    if request.param == "radix search":
        monkeypatch.setattr(sampling, "NEAREST", 1)


# Salmon et al.'s known answers, from the Random123 distribution.
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter, key, words):
    assert philox4x32(torch.tensor(counter)[:, None], torch.tensor(key)[:, None]).flatten().tolist() == words


def test_uniform_is_the_first_word_of_seed_and_position():
    seeds = torch.tensor([0, -1, 5])
    u = uniform(seeds, torch.tensor([0, 0, 2**40 + 3]))
    assert u[0] == 0x6627E8D5 / 2**32
    words = philox4x32(
        torch.tensor([[0, 3], [0, 256], [0, 0], [0, 0]]), torch.tensor([[0xFFFFFFFF, 5], [0xFFFFFFFF, 0]])
    )
    assert torch.equal(u[1:], words[0].double() / 2**32)


def test_uniform_covers_the_unit_interval():
    u = uniform(torch.arange(2000)[:, None].expand(-1, 8).flatten(), torch.arange(8).repeat(2000)).numpy()
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    assert abs(chi_square(counts, np.full(50, len(u) / 50))) < 4


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 1000},
        {"top_p": 0.9},
        {"top_p": 0.3},
        {"top_p": 1e-6},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"top_k": 12, "top_p": 0.8},
        {"top_k": 20, "top_p": 0.95, "min_p": 0.05},
    ],
    ids=str,
)
def test_distribution(temperature, filters, search):
    draws = 4000
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 2
    tokens = draw(
        logits.expand(draws, -1),
        temperature=temperature,
        positions=torch.arange(draws) % 100,
        seeds=torch.arange(draws) // 100 + 2**33,
        **filters,
    )
    expected = naive_probabilities(logits.numpy(), temperature, **filters) * draws
    assert abs(chi_square(np.bincount(tokens, minlength=VOCAB), expected)) < 4


@pytest.mark.parametrize("vocab", [3, 255, 256, 257, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_each_draw_is_the_inverse_cdf(vocab, dtype):
    """Exact, not statistical: every row has its own logits, temperature and filters."""
    n = 64
    rng = np.random.default_rng(vocab)
    logits = torch.from_numpy(rng.normal(size=(n, vocab)) * rng.choice([0.1, 1, 4], (n, 1))).to(dtype)
    temperature = rng.choice([0.5, 1.0, 1.5], n)
    top_k = rng.choice([0, 1, 5, 300], n)
    top_p = rng.choice([0.5, 0.9, 0.99, 1.0], n)
    min_p = rng.choice([0.0, 0.01, 0.3], n)
    seeds, positions = torch.arange(n), torch.arange(n) * 7
    tokens = ops.sample(
        logits,
        torch.tensor(temperature, dtype=torch.float32),
        torch.tensor(top_k, dtype=torch.int32),
        torch.tensor(top_p, dtype=torch.float32),
        torch.tensor(min_p, dtype=torch.float32),
        seeds,
        positions,
    ).numpy()
    u = uniform(seeds, positions).numpy()
    for i in range(n):
        p = naive_probabilities(logits[i].double().numpy(), temperature[i], top_k[i], top_p[i], min_p[i])
        cdf = p.cumsum()
        assert p[tokens[i]] > 0
        assert cdf[tokens[i]] > u[i] - 1e-5
        assert cdf[tokens[i]] - p[tokens[i]] <= u[i] + 1e-5


def test_both_searches_find_the_same_limit():
    rng = torch.Generator().manual_seed(0)
    z = -torch.rand(32, 1024, generator=rng) * torch.rand(32, 1, generator=rng) * 30
    z[:, 5], z[3, 9] = 0, -math.inf
    weights = z.exp()
    target = weights.sum(-1, keepdim=True, dtype=torch.float64) * torch.linspace(0, 1.01, 32)[:, None]
    nearest = z.topk(1024)
    assert torch.equal(
        sampling._radix_limit(z, weights, target)[:-1], sampling._limit(z, weights, target, nearest)[:-1]
    )
    assert sampling._radix_limit(z, weights, target)[-1] == -math.inf  # more than there is: keep all


def test_ties_at_the_limit_all_survive(search):
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0]).expand(4000, -1)
    assert set(draw(logits, top_k=2).tolist()) == {1, 2, 3, 4}
    assert set(draw(logits, top_p=0.6).tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize("vocab", [1, 6, 260])
def test_flat_logits_keep_all(vocab, search):
    tokens = draw(torch.zeros(14 * vocab, vocab), top_p=0.5, top_k=3)
    assert set(tokens.tolist()) == set(range(vocab))


def test_greedy_takes_the_lowest_id_of_equals():
    logits = torch.zeros(4, 1000)
    logits[0, [700, 300, 999]] = 1
    logits[1] = -math.inf
    logits[2] = 5
    logits[3, 999] = 0.5
    assert ops.greedy(logits).tolist() == [300, 0, 0, 999]
    assert draw(logits, temperature=0.0).tolist() == [300, 0, 0, 999]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_logits_stay_in_their_row(temperature):
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(1))
    alone = draw(logits, temperature=temperature, top_p=0.9)
    bad = logits.clone()
    bad[0] = math.nan
    bad[1, 10:] = math.nan
    bad[2] = -math.inf
    bad[3, 17] = math.inf
    tokens = draw(bad, temperature=temperature, top_p=0.9)
    assert tokens[0] == 0
    assert tokens[1] < 10
    assert tokens[2] == 0
    assert tokens[3] == 17
    assert torch.equal(tokens[4:], alone[4:])


def test_extreme_temperatures():
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(logits, temperature=1e-30), ops.greedy(logits))
    assert len(set(draw(logits, temperature=1e30).tolist())) > 30


def test_logits_are_left_alone():
    logits = torch.randn(3, 256)
    before = logits.clone()
    draw(logits, top_k=3, top_p=0.5, min_p=0.1)
    rows, ids = torch.tensor([1]), torch.tensor([[2, 5]])
    ops.add_bias(logits, rows, ids, torch.ones(1, 2))
    counts = torch.ones(1, 256, dtype=torch.int32)
    penalty = torch.tensor([2.0])
    ops.apply_penalties(logits, rows, torch.tensor([0]), counts, counts > 0, penalty, penalty, penalty)
    assert torch.equal(logits, before)


def test_add_bias():
    logits = torch.zeros(3, 8, dtype=torch.bfloat16)
    values = torch.tensor([[1.5, 2.0, 0.0], [-math.inf, 0.25, 0.25]])
    biased = ops.add_bias(logits, torch.tensor([2, 0]), torch.tensor([[3, 4, 0], [1, 7, 7]]), values)
    expected = torch.zeros(3, 8)
    expected[2, 3], expected[2, 4], expected[0, 1], expected[0, 7] = 1.5, 2.0, -math.inf, 0.5
    assert biased.dtype == torch.float32
    assert torch.equal(biased, expected)


def test_repetition_penalty_is_that_of_transformers():
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(4))
    prompt, output = torch.tensor([[1, 2, 3, 3], [9, 9, 4, 5]]), torch.tensor([[7, 7], [4, 40]])
    in_prompt = torch.zeros(2, 50, dtype=torch.bool).scatter_(1, prompt, True)
    counts = torch.zeros(2, 50, dtype=torch.int32)
    for column in output.T:
        ops.count_tokens(counts, torch.tensor([0, 1]), column)
    rows, none = torch.tensor([0, 1]), torch.zeros(2)
    ours = ops.apply_penalties(logits, rows, rows, counts, in_prompt, torch.full((2,), 1.3), none, none)
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.cat((prompt, output), dim=1), logits.clone())
    assert torch.equal(ours, theirs)


def test_presence_and_frequency_follow_openais_formula():
    """mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence; row 0 has no penalty."""
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(4))
    counts = torch.zeros(3, 50, dtype=torch.int32)
    counts[2, [4, 6]] = torch.tensor([1, 3], dtype=torch.int32)
    ours = ops.apply_penalties(
        logits,
        torch.tensor([1]),
        torch.tensor([2]),
        counts,
        torch.ones(3, 50, dtype=torch.bool),
        torch.tensor([1.0]),
        torch.tensor([0.5]),
        torch.tensor([-0.25]),
    )
    expected = logits.clone()
    expected[1, 4] -= 1 * -0.25 + 0.5
    expected[1, 6] -= 3 * -0.25 + 0.5
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_log_probs_are_log_softmax_in_float32(dtype):
    logits = (torch.randn(5, 300, generator=torch.Generator().manual_seed(2)) * 3).to(dtype)
    ids = torch.tensor([0, 299, 5, 5, 17])
    chosen, top_ids, top = ops.log_probs(logits, ids, 4)
    reference = torch.log_softmax(logits.float(), -1)
    torch.testing.assert_close(chosen, reference[torch.arange(5), ids])
    torch.testing.assert_close(top, reference.sort(-1, descending=True).values[:, :4])
    torch.testing.assert_close(reference.gather(1, top_ids), top)
    assert top_ids.dtype == torch.int64


def test_log_probs_of_bad_logits_are_not_nan():
    logits = torch.zeros(3, 4)
    logits[0, 2], logits[1], logits[2, 1] = math.nan, math.nan, math.inf
    chosen, _, top = ops.log_probs(logits, torch.tensor([0, 0, 1]), 2)
    assert chosen.tolist() == pytest.approx([-math.log(3), -math.inf, 0.0])
    assert not top.isnan().any()


def test_no_alternatives_wanted():
    _, top_ids, top = ops.log_probs(torch.zeros(2, 4), torch.tensor([0, 1]), 0)
    assert top_ids.shape == top.shape == (2, 0)


def test_no_rows():
    logits = torch.zeros(0, 30)
    assert ops.greedy(logits).shape == (0,)
    assert draw(logits, top_k=2, top_p=0.5).shape == (0,)


def test_shapes_that_do_not_fit_are_named():
    logits, two, three = torch.zeros(2, 8), torch.zeros(2), torch.zeros(3)
    ids = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"greedy: .*logits \[8\]"):
        ops.greedy(logits[0])
    with pytest.raises(ValueError, match=r"sample: .*top_p \[3\]"):
        ops.sample(logits, two, None, three, None, ids, ids)
    with pytest.raises(ValueError, match="add_bias"):
        ops.add_bias(logits, ids, torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="apply_penalties"):
        ops.apply_penalties(logits, ids, ids, torch.zeros(1, 9), torch.zeros(1, 9), two, two, two)
    with pytest.raises(ValueError, match="count_tokens"):
        ops.count_tokens(torch.zeros(1, 8), ids, ids[:1])
    with pytest.raises(ValueError, match="num_top=9"):
        ops.log_probs(logits, ids, 9)
