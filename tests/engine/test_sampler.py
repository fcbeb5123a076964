"""The sampler as the runner drives it: table, packed words and device state together."""

import math
import time

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from mii.core import SamplingParams
from mii.engine.sampler import Sampler
from mii.engine.sampling_table import SamplingTable
from mii.errors import InvalidRequest
from mii_kernels import ops

VOCAB = 300
ROWS = 16
DEVICE = torch.device("cpu")


class Runner:
    """Sequences in rows; a step samples for some of them from given logits."""

    def __init__(self, vocab=VOCAB, rows=ROWS):
        self.table = SamplingTable(rows)
        self.sampler = Sampler(vocab, rows, DEVICE)
        self.tokens = {}

    def open(self, row, prompt=(1, 2, 3), output=(), **options):
        params = SamplingParams(max_tokens=100, **options)
        self.tokens[row] = [*prompt, *output]
        self.table.open(row, params, len(prompt))
        self.sampler.open(row, params, self.tokens[row], len(prompt))

    def plan(self, *rows):
        return self.table.plan(np.array(rows, np.int32), self.positions(rows))

    def positions(self, rows):
        return np.array([len(self.tokens[row]) for row in rows], np.int32)

    def sample(self, logits, *rows):
        """logits [rows, vocab]."""
        packed = np.full((len(rows), SamplingTable.WIDTH), -1, np.int32)  # as dirty as a reused buffer
        self.table.pack(np.array(rows, np.int32), self.positions(rows), packed)
        return self.sampler(logits, torch.from_numpy(packed), self.plan(*rows))

    def step(self, logits, *rows):
        ids = self.sample(logits, *rows).token_ids.tolist()
        for row, token_id in zip(rows, ids, strict=True):
            self.tokens[row].append(token_id)
        return ids


@pytest.fixture
def runner():
    return Runner()


def random_logits(n, seed=0, vocab=VOCAB):
    return torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed)) * 2


REQUESTS = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 1.0, "top_p": 0.9, "seed": 2},
    {"temperature": 0.7, "top_k": 20, "seed": 3},
    {"temperature": 1.3, "min_p": 0.02, "seed": 2**64 - 1},
    {"temperature": 1.0, "top_k": 50, "top_p": 0.8, "min_p": 0.01, "seed": -5},
    {"temperature": 0.9, "repetition_penalty": 1.5, "seed": 4},
    {"temperature": 0.0, "presence_penalty": 2.0, "frequency_penalty": 2.0},
    {"temperature": 1.0, "logit_bias": {5: 8.0, 6: -100.0}, "seed": 5},
    {"temperature": 1.0, "min_tokens": 4, "eos_token_ids": (5,), "stop_token_ids": (6, 7), "seed": 6},
    {"temperature": 1.0, "top_p": 0.95, "logprobs": 3, "presence_penalty": -1.0, "seed": 7},
]


def test_a_request_does_not_see_its_batch():
    """Alone in row 0, or amid all others in any row and order: the same tokens."""
    steps = 8
    logits = [random_logits(len(REQUESTS), step) for step in range(steps)]
    alone = []
    for index, options in enumerate(REQUESTS):
        runner = Runner()
        runner.open(0, **options)
        alone.append([runner.step(logits[step][index : index + 1], 0)[0] for step in range(steps)])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(ROWS)[: len(REQUESTS)]
        runner = Runner()
        for row, options in zip(rows, REQUESTS, strict=True):
            runner.open(int(row), **options)
        together = [[] for _ in REQUESTS]
        for step in range(steps):
            order = rng.permutation(len(REQUESTS))
            ids = runner.step(logits[step][order], *(int(rows[i]) for i in order))
            for i, token_id in zip(order, ids, strict=True):
                together[i].append(token_id)
        assert together == alone


def test_reopening_after_a_preemption_continues_as_if_nothing_happened():
    steps, interrupted_at = 10, 6
    logits = [random_logits(len(REQUESTS), step) for step in range(steps)]
    uninterrupted, preempted = Runner(), Runner()
    rows = range(len(REQUESTS))
    for row, options in enumerate(REQUESTS):
        uninterrupted.open(row, **options)
        preempted.open(row, **options)
    for step in range(steps):
        if step == interrupted_at:
            moved = [ROWS - 1 - row for row in rows]
            outputs = [preempted.tokens[row][3:] for row in rows]
            for row in rows:
                preempted.sampler.close(row)
            for row, output, options in zip(moved, outputs, REQUESTS, strict=True):
                preempted.open(row, output=output, **options)
        expected = uninterrupted.step(logits[step], *rows)
        assert preempted.step(logits[step], *(moved if step >= interrupted_at else rows)) == expected


def test_seeds_and_positions_both_matter(runner):
    flat = torch.zeros(1, VOCAB)
    runner.open(0, seed=1)
    runner.open(1, seed=2)
    runner.open(2, seed=1)
    first, second, third = ([runner.step(flat, row)[0] for _ in range(20)] for row in range(3))
    assert first == third
    assert first != second
    assert len(set(first)) > 10


def test_greedy_is_argmax(runner):
    logits = random_logits(3)
    for row in range(3):
        runner.open(row, temperature=0.0, top_p=0.5, top_k=3, min_p=0.5)
    plan = runner.plan(0, 1, 2)
    assert plan.greedy
    assert not any((plan.top_k, plan.top_p, plan.min_p, plan.penalised, plan.biased))
    assert plan.logprobs is None
    assert runner.step(logits, 0, 1, 2) == logits.argmax(-1).tolist()


def test_plan_says_what_the_step_needs(runner):
    runner.open(0, temperature=0.0)
    runner.open(1, top_k=5)
    runner.open(2, top_p=0.5, logprobs=0)
    runner.open(3, min_p=0.5, repetition_penalty=2.0, logprobs=4)
    runner.open(4, logit_bias={1: 1.0}, frequency_penalty=1.0)
    assert not runner.plan(0, 1).greedy
    assert [runner.plan(row).top_k for row in range(5)] == [False, True, False, False, False]
    assert [runner.plan(row).top_p for row in range(5)] == [False, False, True, False, False]
    assert [runner.plan(row).min_p for row in range(5)] == [False, False, False, True, False]
    assert [runner.plan(row).logprobs for row in range(5)] == [None, None, 0, 4, None]
    everything = runner.plan(4, 3, 2, 1, 0)
    assert (everything.penalised, everything.biased, everything.logprobs) == (2, 1, 4)


def test_a_reused_row_forgets_its_former_sequence(runner):
    runner.open(0, logit_bias={9: 100.0}, logprobs=2, presence_penalty=2.0, top_k=1)
    assert runner.step(torch.zeros(1, VOCAB), 0) == [9]
    runner.sampler.close(0)
    runner.open(0, temperature=0.0)
    plan = runner.plan(0)
    assert (plan.penalised, plan.biased, plan.logprobs) == (0, 0, None)
    assert runner.step(torch.zeros(1, VOCAB), 0) == [0]


def test_repetition_penalty_over_prompt_and_output_is_that_of_transformers(runner):
    runner.open(3, prompt=(4, 8, 8), temperature=0.0, repetition_penalty=1.8)
    processor = RepetitionPenaltyLogitsProcessor(1.8)
    for step in range(30):
        logits = random_logits(1, step % 3)
        expected = processor(torch.tensor([runner.tokens[3]]), logits.clone()).argmax(-1).tolist()
        assert runner.step(logits, 3) == expected


def test_presence_and_frequency_penalise_the_output_alone(runner):
    """The prompt is all token 7. OpenAI's formula: mu - count * frequency - (count > 0) * presence."""
    logits = torch.zeros(1, VOCAB)
    logits[0, 7], logits[0, 8] = 3.0, 2.5
    runner.open(0, prompt=(7,) * 9, temperature=0.0, presence_penalty=0.6)
    assert [runner.step(logits, 0)[0] for _ in range(4)] == [7, 8, 7, 7]
    runner.open(1, prompt=(7,) * 9, temperature=0.0, frequency_penalty=0.4)
    assert [runner.step(logits, 1)[0] for _ in range(6)] == [7, 7, 8, 7, 8, 7]


def test_penalties_grow_their_state_and_reuse_slots(runner):
    """Many rows with penalties, opened and closed in turn, each with its own history."""
    rng = np.random.default_rng(0)
    for row in range(ROWS):
        runner.open(row, prompt=(row,), temperature=0.0, presence_penalty=50.0)
    logits = torch.zeros(ROWS, VOCAB)
    for step in range(3):
        assert runner.step(logits, *range(ROWS)) == [step] * ROWS
    for row in rng.permutation(ROWS)[:6].tolist():
        runner.sampler.close(row)
        runner.open(row, prompt=(0,), temperature=0.0, presence_penalty=50.0)
        assert runner.step(logits[:1], row) == [0]
    assert runner.sampler._counts.counts.shape[0] == ROWS


def test_rows_without_penalties_give_their_slots_back(runner):
    """Opening a row again is enough."""
    for row in range(ROWS):
        runner.open(row, presence_penalty=1.0)
        runner.open(row)
    assert runner.sampler._counts.counts.shape[0] == 1


def test_nothing_is_allocated_without_need(runner):
    runner.open(0, top_p=0.5)
    runner.step(torch.zeros(1, VOCAB), 0)
    assert runner.sampler._counts.counts.numel() == 0
    assert runner.sampler._biases._values.numel() == 0


def test_logit_bias_bans_and_forces(runner):
    logits = torch.full((2, VOCAB), 0.0)
    logits[:, 11] = 20.0
    runner.open(0, logit_bias={11: -100.0}, seed=3)
    runner.open(1, logit_bias={12: 100.0, 11: -100.0, 0: 0.5}, seed=3)
    for _ in range(20):
        banned, forced = runner.step(logits, 0, 1)
        assert banned != 11
        assert forced == 12


def test_logit_bias_outside_the_vocabulary_is_refused(runner):
    with pytest.raises(InvalidRequest, match=r"token id 300 .* \(0 to 299\)") as error:
        runner.open(0, logit_bias={300: 1.0})
    assert error.value.param == "logit_bias"


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_min_tokens_masks_every_end(runner, ignore_eos):
    """Ids beyond the vocabulary (a padded tokenizer) are harmless."""
    logits = torch.zeros(1, VOCAB)
    logits[0, 5], logits[0, 6], logits[0, 8] = 3, 2, 1
    ends = {"eos_token_ids": (5, VOCAB + 1), "stop_token_ids": (6,), "ignore_eos": ignore_eos}
    runner.open(0, temperature=0.0, min_tokens=3, **ends)
    assert [runner.plan(0).biased, *(runner.step(logits, 0)[0] for _ in range(5))] == [1, 8, 8, 8, 5, 5]
    assert runner.plan(0).biased == 0


def test_min_tokens_counts_new_tokens_only(runner):
    logits = torch.zeros(1, VOCAB)
    logits[0, 5] = 1
    runner.open(0, prompt=range(50), output=(9, 9), temperature=0.0, min_tokens=3, eos_token_ids=(5,))
    assert [runner.step(logits, 0)[0] for _ in range(2)] == [0, 5]


def test_min_tokens_masks_before_penalties_could_lift(runner):
    """A negative penalty raises what occurred, but never a masked end."""
    runner.open(0, output=(5,), temperature=0.0, min_tokens=9, eos_token_ids=(5,), frequency_penalty=-2.0)
    assert runner.step(torch.zeros(1, VOCAB), 0) == [0]


def test_logprobs_are_of_the_raw_distribution(runner):
    logits = random_logits(3)
    runner.open(0, temperature=0.2, top_k=2, logit_bias={4: 100.0}, presence_penalty=1.0, logprobs=5)
    runner.open(1, temperature=0.0, logprobs=2)
    runner.open(2, temperature=0.0)
    sampled = runner.sample(logits, 0, 1, 2)
    reference = torch.log_softmax(logits, -1)
    assert sampled.token_ids[0] == 4
    torch.testing.assert_close(sampled.logprobs, reference.gather(1, sampled.token_ids[:, None])[:, 0])
    torch.testing.assert_close(sampled.top_logprobs, reference.sort(-1, descending=True).values[:, :5])
    torch.testing.assert_close(reference.gather(1, sampled.top_ids), sampled.top_logprobs)


def test_logprobs_of_the_chosen_token_alone(runner):
    runner.open(0, logprobs=0)
    sampled = runner.sample(random_logits(1), 0)
    assert sampled.logprobs.shape == (1,)
    assert sampled.top_ids.shape == sampled.top_logprobs.shape == (1, 0)
    runner.open(0)
    assert runner.sample(random_logits(1), 0).logprobs is None


def test_bfloat16_logits(runner):
    logits = random_logits(len(REQUESTS)).bfloat16()
    for row, options in enumerate(REQUESTS):
        runner.open(row, **options)
    again = Runner()
    for row, options in enumerate(REQUESTS):
        again.open(row, **options)
    low, high = runner.sample(logits, *range(11)), again.sample(logits.float(), *range(11))
    assert torch.equal(low.token_ids, high.token_ids)
    assert torch.equal(low.logprobs, high.logprobs)


def test_nan_logits_stay_in_their_row(runner):
    logits = random_logits(len(REQUESTS))
    other = Runner()
    for row, options in enumerate(REQUESTS):
        runner.open(row, **options)
        other.open(row, **options)
    bad = logits.clone()
    bad[[0, 6, 8]] = math.nan
    good = [row for row in range(len(REQUESTS)) if row not in (0, 6, 8)]
    rows = range(len(REQUESTS))
    sampled, expected = runner.sample(bad, *rows), other.sample(logits, *rows)
    assert torch.equal(sampled.token_ids[good], expected.token_ids[good])
    assert not sampled.logprobs.isnan().any()
    assert sampled.token_ids.max() < VOCAB


def test_seed_is_taken_modulo_64_bits(runner):
    flat = torch.zeros(1, VOCAB)
    runner.open(0, seed=-1)
    runner.open(1, seed=2**64 - 1)
    runner.open(2, seed=2**32 - 1)  # shares only the low word
    tokens = [[runner.step(flat, row)[0] for _ in range(8)] for row in range(3)]
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2]


def test_packed_words_reach_the_operation_bit_for_bit(runner):
    """The same draw as the operation called directly."""
    runner.open(0, temperature=0.7, top_k=9, top_p=0.83, min_p=0.013, seed=0x123456789ABCDEF0)
    logits = random_logits(1)
    direct = ops.sample(
        logits,
        torch.tensor([0.7]),
        torch.tensor([9], dtype=torch.int32),
        torch.tensor([0.83]),
        torch.tensor([0.013]),
        torch.tensor([0x123456789ABCDEF0]),
        torch.tensor([3]),
    )
    assert torch.equal(runner.sample(logits, 0).token_ids, direct)


def test_host_cost_of_a_step():
    """256 rows of every kind. The bound is loose, for a busy machine: a Python loop would break it."""
    table = SamplingTable(256)
    for row in range(256):
        table.open(row, SamplingParams(max_tokens=9, **REQUESTS[row % len(REQUESTS)]), 3)
    rows, positions = np.arange(256, dtype=np.int32), np.full(256, 5, np.int32)
    out = np.empty((256, SamplingTable.WIDTH), np.int32)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        table.plan(rows, positions)
        table.pack(rows, positions, out)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 200e-6
