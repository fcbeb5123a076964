"""A whole engine on our kernels gives the tokens that it gives on the references."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, MixtralConfig, PhiConfig

from mii.config import EngineConfig
from mii.core import EngineRequest, SamplingParams
from mii.engine.engine import Engine
from mii.errors import ModelLoadError
from mii_kernels import ops
from mii_kernels.cuda import arguments, gemm

from .conftest import Kernels

SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
CONFIGS = {
    "llama": LlamaConfig(**SMALL, num_hidden_layers=2, num_key_value_heads=2),
    "phi": PhiConfig(**SMALL, num_hidden_layers=2),
    "mixtral": MixtralConfig(**SMALL, num_hidden_layers=2, num_key_value_heads=2, num_local_experts=4),
}
SAMPLINGS = [
    SamplingParams(max_tokens=6, temperature=0.0),
    SamplingParams(max_tokens=6, temperature=0.8, top_p=0.9, seed=1),
    SamplingParams(max_tokens=6, temperature=1.0, top_k=20, min_p=0.01, seed=2, presence_penalty=0.5),
    SamplingParams(max_tokens=6, temperature=0.0, repetition_penalty=1.3, logit_bias={7: 2.0}),
]


def tokens(engine: Engine) -> list[list[int]]:
    """Of four requests at once, prompts of 1 to 70 tokens."""
    rng = torch.Generator().manual_seed(0)
    produced: dict[str, list[int]] = {}
    for index, (length, sampling) in enumerate(zip((70, 1, 9, 65), SAMPLINGS, strict=True)):
        prompt = torch.randint(320, (length,), generator=rng).tolist()
        engine.add(EngineRequest(str(index), prompt, sampling))
    while engine.has_work():
        for output in engine.step():
            produced.setdefault(output.request_id, []).extend(output.token_ids)
    return [produced[str(index)] for index in range(len(SAMPLINGS))]


@pytest.mark.parametrize("family", CONFIGS)
def test_tokens_equal_the_references(
    family: str,
    kernels: Kernels,
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = str(tiny_model(CONFIGS[family]))
    expected = tokens(Engine(EngineConfig(model=model, device="cpu", kv_blocks=32)))
    options: dict[str, Any] = {"dtype": "float32", "prepack_weights": False}
    engine = Engine(
        EngineConfig(model=model, device=kernels.device.type, kv_blocks=32, token_budget=64, **options)
    )
    monkeypatch.setattr(ops, "_backend", lambda tensor: kernels.run)
    assert tokens(engine) == expected


def test_products_that_add_the_residual_change_no_token(
    kernels: Kernels, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sums are rounded as those of a norm are."""
    if arguments.capability(kernels.device) != (9, 0):
        pytest.skip("needs compute capability 9.0")
    options: dict[str, Any] = {"dtype": "bfloat16", "prepack_weights": False, "token_budget": 256}
    config = EngineConfig(
        model=str(tiny_model(CONFIGS["llama"])), device=kernels.device.type, kv_blocks=32, **options
    )
    in_place = []

    def noted(*args: Any) -> tuple[Tensor, Tensor | None]:
        x, residual = kernels.run.linear_onto(*args)
        in_place.append(residual is None)
        return x, residual

    apart, adding = (Namespace(**vars(kernels.run)) for _ in range(2))
    apart.linear_onto = lambda x, weight, bias, onto: (kernels.run.linear(x, weight, bias), onto)
    adding.linear_onto = noted
    monkeypatch.setattr(gemm, "pays", lambda *_: True)
    monkeypatch.setattr(ops, "_backend", lambda _: apart)
    expected = tokens(Engine(config))
    monkeypatch.setattr(ops, "_backend", lambda _: adding)
    assert tokens(Engine(config)) == expected
    assert any(in_place)
    assert not all(in_place), "few tokens' sums are the norms'"


def test_cuda_kernels_on_a_cpu_are_refused(tiny_model: Callable[..., Path]) -> None:
    model = str(tiny_model(CONFIGS["llama"]))
    with pytest.raises(ModelLoadError, match="kernels 'cuda' need a CUDA device, and the device is cpu"):
        Engine(EngineConfig(model=model, device="cpu", kernels="cuda"))


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(ModelLoadError, match="'triton' is none of auto, cuda, torch"):
        Engine(EngineConfig(model="none", device="cpu", kernels="triton"))
