"""A step only queues work for the GPU: whatever requests ask for, the host waits for none of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MixtralConfig

from mii.core import SamplingParams

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4),
}
ASKED: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9, "seed": 1, "logprobs": 3},
    {"temperature": 1.0, "top_k": 20, "min_p": 0.01, "presence_penalty": 0.5, "min_tokens": 4},
    {"temperature": 0.0, "repetition_penalty": 1.3, "logit_bias": {7: 2.0}},
    {"temperature": 0.0, "prompt_logprobs": 2},
]


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Waiting for an event, as who reads a step's results does, is no error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waiting_is_noticed() -> None:
    with nobody_waits(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device="cuda").item()


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_steps_do_not_wait(
    tiny_model: Callable[..., Path], make_engine: Any, run: Any, family: str, graphs: bool
) -> None:
    options: dict[str, Any] = {"dtype": "bfloat16", "kernels": "cuda", "kv_blocks": 64, "token_budget": 256}
    engine = make_engine(tiny_model(CONFIGS[family]), device="cuda", cuda_graphs=graphs, **options)
    requests = [
        ([11 + index, 5] * 100, SamplingParams(max_tokens=8, ignore_eos=True, **asked))
        for index, asked in enumerate(ASKED)
    ]
    nothing_to_score = [9], SamplingParams(max_tokens=8, ignore_eos=True, prompt_logprobs=0)
    requests.append(nothing_to_score)
    with nobody_waits():
        ran = run(engine, requests)
    assert [len(it.token_ids) for it in ran] == [8] * len(requests)
    assert [len(it.outputs[0].prompt_logprobs) for it in ran[-2:]] == [199, 0]
