"""The same engine on a GPU: the tokens of transformers on the CPU, in float32, a step ahead or not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mii.core import SamplingParams
from mii.models.snapshot import fetch
from mii.models.tokenizer import load_tokenizer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NEW_TOKENS = 48
TEXT = (
    "A lighthouse keeper writes down the weather every morning: wind from the west, a long swell, "
    "gulls on the rail. At noon she climbs the stairs again, trims the lamp that no ship needs any more, "
    "and counts the sails. "
) * 4


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("budget", [64, 8192])
def test_smollm2_on_a_gpu(
    smollm2: Path, make_engine: Any, run: Any, truth: Callable[[Path], Any], budget: int, overlap: bool
) -> None:
    token_ids = load_tokenizer(fetch(str(smollm2))).encode(TEXT)
    prompts = [
        token_ids[3 * index : 3 * index + length] for index, length in enumerate((1, 17, 64, 65, 130, 160))
    ]
    engine = make_engine(
        smollm2, device="cuda", dtype="float32", kv_blocks=64, token_budget=budget, overlap=overlap
    )
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0)
    for prompt, got in zip(prompts, run(engine, [(prompt, sampling) for prompt in prompts]), strict=True):
        assert got.token_ids == truth(smollm2)(prompt, NEW_TOKENS), f"prompt of {len(prompt)} tokens"


def test_sampled_tokens_equal_the_cpus(tiny_model: Any, make_engine: Any, run: Any) -> None:
    from transformers import LlamaConfig

    model = tiny_model(
        LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    requests = [
        ([5 + index] * 20, SamplingParams(max_tokens=20, temperature=0.7, top_p=0.9, seed=index))
        for index in range(8)
    ]
    on_cpu = run(make_engine(model), requests)
    on_gpu = run(make_engine(model, device="cuda", dtype="float32", kv_blocks=64), requests)
    assert [it.token_ids for it in on_gpu] == [it.token_ids for it in on_cpu]
