"""A whole engine on our kernels.

In float32, where PyTorch has attention and products, it gives the references' tokens; in 16 bits, where all
is ours, those of transformers as far as rounding allows.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, MixtralConfig, PhiConfig

from mii.config import EngineConfig
from mii.core import EngineRequest, SamplingParams
from mii.engine.engine import Engine
from mii.errors import ModelLoadError
from mii_kernels import ops
from mii_kernels.cuda import arguments, attention, gemm

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
WIDE: dict[str, Any] = {  # heads that the kernels of attention serve
    "vocab_size": 320,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
}
WIDE_CONFIGS = {
    "llama": LlamaConfig(**WIDE, num_key_value_heads=1),
    "mistral, window": MistralConfig(**WIDE, num_key_value_heads=1, sliding_window=40),
    "phi": PhiConfig(**WIDE),
    "mixtral": MixtralConfig(**WIDE, num_key_value_heads=1, num_local_experts=4),
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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", WIDE_CONFIGS)
def test_16_bits_are_as_near_to_float32_as_those_of_transformers(
    family: str,
    dtype: str,
    kernels: Kernels,
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Log-probabilities of prompts, and of the tokens that follow greedily."""
    if arguments.capability(kernels.device) != (9, 0):
        pytest.skip("needs compute capability 9.0")
    model = tiny_model(WIDE_CONFIGS[family])
    monkeypatch.setattr(ops, "_backend", lambda tensor: kernels.run)
    monkeypatch.setattr(gemm, "pays", lambda *_: True)
    monkeypatch.setattr(attention, "reference", None)  # nothing may fall back to it
    options: dict[str, Any] = {"dtype": dtype, "prepack_weights": False, "token_budget": 128}
    engine = Engine(EngineConfig(model=str(model), device=kernels.device.type, kv_blocks=32, **options))
    scored = [scores(engine, length) for length in (70, 1, 2, 9, 130)]
    exact, rounded = (
        AutoModelForCausalLM.from_pretrained(model, dtype=it).eval()
        for it in (torch.float32, getattr(torch, dtype))
    )
    ours, theirs = [], []
    for ids, found in scored:
        wanted = logprobs_of(exact, ids)
        ours.append(found - wanted)
        theirs.append(logprobs_of(rounded, ids) - wanted)
    assert rms(ours) < 1.5 * rms(theirs)


def scores(engine: Engine, length: int) -> tuple[Tensor, Tensor]:
    """A random prompt with 6 tokens more, and the log-probabilities of all but the first."""
    prompt = torch.randint(320, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    sampling = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    engine.add(EngineRequest("one", prompt, sampling))
    ids, found = list(prompt), []
    while engine.has_work():
        for output in engine.step():
            ids += output.token_ids
            found += [it.logprob for it in (output.prompt_logprobs or []) + (output.logprobs or [])]
    return torch.tensor(ids), torch.tensor(found)


@torch.inference_mode()
def logprobs_of(model: Any, ids: Tensor) -> Tensor:
    logprobs = model(ids[None]).logits[0, :-1].float().log_softmax(1)
    return logprobs.gather(1, ids[1:, None])[:, 0]


def rms(differences: list[Tensor]) -> float:
    return float(torch.cat(differences).square().mean().sqrt())


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
