"""Ranks on GPUs: the tokens of one, whichever way they sum, and no waiting for a rank that is gone."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import transformers

from mii.config import EngineConfig
from mii.core import EngineRequest, SamplingParams
from mii.engine.leading import LeadingEngine, open_engine
from mii.errors import EngineDead

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 CUDA devices"),
    pytest.mark.timeout(200),
]

CONFIG = transformers.LlamaConfig(
    vocab_size=500,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
)
PROMPTS = [
    [3 + (7 * index + place) % 400 for place in range(length)] for index, length in enumerate((1, 70, 900))
]
GREEDY = SamplingParams(max_tokens=32, temperature=0.0)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(CONFIG)


def config(model: Path, ranks: int, **changes: Any) -> EngineConfig:
    settings: dict[str, Any] = {"dtype": "float32", "kernels": "cuda", "kv_blocks": 64} | changes
    return EngineConfig(model=str(model), device="cuda", tensor_parallel=ranks, **settings)


@pytest.mark.parametrize("peer_memory", [True, False])
@pytest.mark.parametrize("kernels", ["cuda", "torch"])
@pytest.mark.parametrize("ranks", [2, 4])  # of 4 each two hold the same KV head
def test_gpus_give_the_tokens_of_one(
    model: Path, run: Any, ranks: int, kernels: str, peer_memory: bool
) -> None:
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    requests = [(prompt, GREEDY) for prompt in PROMPTS]
    settings = {"kernels": kernels, "peer_memory": peer_memory}
    with closing(open_engine(config(model, 1, **settings))) as alone:
        expected = [it.token_ids for it in run(alone, requests)]
    with closing(open_engine(config(model, ranks, **settings))) as engine:
        assert isinstance(engine, LeadingEngine)
        assert (engine.ranks.reducer is not None) == (peer_memory and kernels == "cuda")
        assert [it.token_ids for it in run(engine, requests)] == expected


@pytest.mark.parametrize("peer_memory", [True, False])
def test_a_lost_rank_ends_the_wait_on_the_device(model: Path, run: Any, peer_memory: bool) -> None:
    engine = open_engine(config(model, 2, peer_memory=peer_memory))
    assert isinstance(engine, LeadingEngine)
    engine.add(
        EngineRequest("a", PROMPTS[1], SamplingParams(max_tokens=3000, temperature=0.0, ignore_eos=True))
    )
    for _ in range(5):
        engine.step()
    (pid,) = engine.followers.pids
    psutil.Process(pid).kill()
    killed = time.monotonic()
    with pytest.raises(EngineDead, match=r"^rank 1 of 2 was killed by SIGKILL$"):
        run(engine, [])
    assert time.monotonic() - killed < 10
    engine.close()
