"""Every family against transformers: the same greedy tokens from the same random weights."""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mii.core import SamplingParams
from mii.models.registry import describe

SMALL: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA: dict[str, Any] = {**SMALL, "intermediate_size": 128, "num_key_value_heads": 2}
EXPERTS: dict[str, Any] = {**LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": 48}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**LLAMA),
    "llama-tied": lambda: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "llama-biases": lambda: transformers.LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True),
    "llama3-rope": lambda: transformers.LlamaConfig(
        **LLAMA,
        rope_scaling={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "llama-yarn": lambda: transformers.LlamaConfig(
        **LLAMA,
        rope_scaling={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    ),
    "llama-linear": lambda: transformers.LlamaConfig(
        **LLAMA, rope_scaling={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    ),
    "mistral-window": lambda: transformers.MistralConfig(**LLAMA, sliding_window=48),
    "mistral-full": lambda: transformers.MistralConfig(**LLAMA, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA),
    "qwen2-window": lambda: transformers.Qwen2Config(
        **LLAMA, use_sliding_window=True, sliding_window=40, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**LLAMA, head_dim=32),
    "mixtral": lambda: transformers.MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2),
    "qwen2-moe": lambda: transformers.Qwen2MoeConfig(
        **EXPERTS, num_experts=6, shared_expert_intermediate_size=80, decoder_sparse_step=2
    ),
    "qwen3-moe": lambda: transformers.Qwen3MoeConfig(
        **EXPERTS, num_experts=6, norm_topk_prob=True, head_dim=16
    ),
    "phi": lambda: transformers.PhiConfig(**SMALL, intermediate_size=128, partial_rotary_factor=0.5),
    "phi3": lambda: transformers.Phi3Config(**LLAMA, original_max_position_embeddings=512),
    "falcon-7b": lambda: transformers.FalconConfig(**SMALL, multi_query=True, parallel_attn=True, bias=False),
    "falcon-40b": lambda: transformers.FalconConfig(
        **SMALL, new_decoder_architecture=True, num_kv_heads=2, bias=False
    ),
    "falcon-rw": lambda: transformers.FalconConfig(
        **SMALL, multi_query=False, parallel_attn=False, bias=True, alibi=False
    ),
    "opt": lambda: transformers.OPTConfig(**SMALL, ffn_dim=128, word_embed_proj_dim=64),
    "opt-350m": lambda: transformers.OPTConfig(
        **SMALL, ffn_dim=128, word_embed_proj_dim=32, do_layer_norm_before=False
    ),
}


# What is split in ways of its own. Where there are fewer KV heads than ranks, some ranks hold the same ones.
RANKS = [
    ("llama", 2),
    ("llama", 4),
    ("llama-biases", 2),
    ("mistral-window", 2),
    ("qwen2", 2),
    ("qwen3", 4),
    ("mixtral", 2),
    ("qwen2-moe", 2),
    ("phi", 2),
    ("phi3", 2),
    ("falcon-7b", 2),
    ("falcon-40b", 4),
    ("falcon-rw", 2),
    ("opt", 2),
    ("opt-350m", 2),
]
GREEDY = SamplingParams(max_tokens=24, temperature=0.0)
DRAW = random.Random(7)
PROMPTS = [[DRAW.randrange(3, 512) for _ in range(length)] for length in (1, 5, 63, 64, 65, 130, 200)]


@pytest.fixture(scope="module")
def family_model(
    tiny_model: Callable[..., Path], truth: Callable[[Path], Any]
) -> Callable[[str], tuple[Path, list[list[int]]]]:
    """A random model of a family, and what transformers says to PROMPTS with it."""

    @cache
    def of(family: str) -> tuple[Path, list[list[int]]]:
        directory = tiny_model(CONFIGS[family]())
        return directory, [truth(directory)(prompt, GREEDY.max_tokens) for prompt in PROMPTS]

    return of


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_tokens_equal_transformers(family: str, family_model: Any, make_engine: Any, run: Any) -> None:
    directory, expected = family_model(family)
    engine = make_engine(directory, token_budget=96, kv_blocks=32)
    ran = run(engine, [(prompt, GREEDY) for prompt in PROMPTS])
    assert [got.token_ids for got in ran] == expected


@pytest.mark.parametrize(("family", "ranks"), RANKS)
def test_every_rank_has_the_tokens_of_transformers(
    family: str, ranks: int, family_model: Any, in_ranks: Any, run: Any
) -> None:
    """With mixed batches of a few tokens, a cache that is too small, and steps that overlap."""
    directory, expected = family_model(family)
    few = SamplingParams(max_tokens=10, temperature=0.0)

    def work(engine: Any) -> tuple[list[list[int]], int]:
        ran = run(engine, [(prompt, few) for prompt in PROMPTS[:6]])
        return [got.token_ids for got in ran], engine.scheduler.num_preemptions

    for tokens, preemptions in in_ranks(ranks, directory, work, token_budget=48, kv_blocks=5, overlap=True):
        assert tokens == [whole[:10] for whole in expected[:6]]
        assert preemptions > 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_experts_that_are_not_packed_are_one_tensor(
    ranks: int, family_model: Any, in_ranks: Any, run: Any
) -> None:
    directory, expected = family_model("mixtral")

    def work(engine: Any) -> tuple[list[int], ...]:
        moe = engine.runner.decoder.blocks[0].mlp
        (ran,) = run(engine, [(PROMPTS[-1], GREEDY)])
        return ran.token_ids, list(moe.gate_up.shape), list(moe.down.shape)

    hidden, width = LLAMA["hidden_size"], LLAMA["intermediate_size"] // ranks
    held = (expected[-1], [4, 2 * width, hidden], [4, hidden, width])
    assert in_ranks(ranks, directory, work, prepack_weights=False, kv_blocks=32) == [held] * ranks


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral-window", "qwen2"])
def test_no_schedule_changes_the_tokens(
    family: str,
    overlap: bool,
    tiny_model: Callable[..., Path],
    truth: Callable[[Path], Any],
    make_engine: Any,
    run: Any,
) -> None:
    """Budgets from 16 to 4096, prefixes found in the cache, and a cache three times too small."""
    directory = tiny_model(CONFIGS[family]())
    expected, draw = truth(directory), random.Random(11)
    sampling = SamplingParams(max_tokens=24, temperature=0.0)
    prefix = [draw.randrange(3, 512) for _ in range(130)]
    prompts = [[draw.randrange(3, 512) for _ in range(length)] for length in (1, 17, 64, 65, 128, 200)]
    prompts += [[*prefix, token] for token in (3, 4, 5)]
    tokens = [expected(prompt, 24) for prompt in prompts]
    for budget in (16, 64, 4096):
        engine = make_engine(directory, token_budget=budget, kv_blocks=64, overlap=overlap)
        for _ in range(2):  # the second time most of the prompts' blocks are there
            ran = run(engine, [(prompt, sampling) for prompt in prompts])
            assert [it.token_ids for it in ran] == tokens, f"budget {budget}"
        assert [it.cached_tokens for it in ran] == [0, 0, 0, 64, 64, 192, 128, 128, 128]

    growing = [[draw.randrange(3, 512) for _ in range(60)] for _ in range(8)]  # of 1 block, and then of 3
    engine = make_engine(directory, token_budget=64, kv_blocks=8, overlap=overlap)
    longer = SamplingParams(max_tokens=100, temperature=0.0)
    ran = run(engine, [(prompt, longer) for prompt in growing])
    assert [it.token_ids for it in ran] == [expected(prompt, 100) for prompt in growing]
    assert engine.scheduler.num_preemptions > 0


@pytest.mark.parametrize("family", ["opt", "falcon-40b"])
def test_the_norms_epsilon_is_transformers(family: str) -> None:
    """Too small a difference for greedy tokens to show."""
    config = CONFIGS[family]()
    architecture = {"opt": "OPTForCausalLM", "falcon-40b": "FalconForCausalLM"}[family]
    description, _ = describe({**config.to_dict(), "architectures": [architecture]})
    assert description.norm_eps == getattr(config, "layer_norm_epsilon", torch.nn.LayerNorm(1).eps)
