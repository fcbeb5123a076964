"""Scores of prompts, which come a step late, part by part, and again after a preemption."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from mii.core import SamplingParams

CONFIG = LlamaConfig(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
DRAW = random.Random(3)
PROMPTS = [[DRAW.randrange(320) for _ in range(length)] for length in (1, 2, 63, 64, 65, 130, 160)]


@torch.inference_mode()
def expected(model: Any, prompt: list[int]) -> torch.Tensor:
    """[len(prompt) - 1] log-probabilities of the tokens after the first."""
    logprobs = model(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(prompt[1:], dtype=torch.int64)[:, None])[:, 0]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("budget", "blocks"), [(4096, 32), (48, 5)])
def test_every_prompt_is_scored_once(
    tiny_model: Callable[..., Path],
    truth: Callable[[Path], Any],
    make_engine: Any,
    run: Any,
    budget: int,
    blocks: int,
    overlap: bool,
) -> None:
    model = tiny_model(CONFIG)
    engine = make_engine(model, token_budget=budget, kv_blocks=blocks, overlap=overlap)
    sampling = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True, prompt_logprobs=2)
    ran = run(engine, [(prompt, sampling) for prompt in PROMPTS])
    assert (engine.scheduler.num_preemptions > 0) is (blocks == 5)
    for prompt, it in zip(PROMPTS, ran, strict=True):
        scores = it.outputs[0].prompt_logprobs
        assert [score.token_id for score in scores] == prompt[1:]
        assert [len(score.top) for score in scores] == [2] * len(scores)
        found = torch.tensor([score.logprob for score in scores])
        torch.testing.assert_close(found, expected(truth(model).model, prompt), rtol=0, atol=1e-4)
