"""`quantization: fp8` against transformers with weights and activations quantised in the same way."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mii.config import EngineConfig
from mii.core import SamplingParams
from mii.engine.device import refuse_without_fp8
from mii.engine.engine import Engine
from mii.errors import ModelLoadError
from mii.layers.linear import QuantisedLinear

from .conftest import Truth
from .test_families import CONFIGS, PROMPTS

GREEDY = SamplingParams(max_tokens=24, temperature=0.0)
FAMILIES = ["llama", "llama-biases", "mistral-window", "qwen2", "qwen3", "phi", "phi3", "falcon-40b", "opt"]
KEPT = re.compile("lm_head|embed_out|project_(in|out)")
ROW_PARALLEL = re.compile(r"o_proj|down_proj")


class FakeQuantised(nn.Linear):
    """Multiplies what is left of input and weight after quantisation, in `parts` of the columns."""

    parts = 1

    def forward(self, x: Tensor) -> Tensor:
        sides = (side.chunk(self.parts, -1) for side in (x, self.weight))
        out = sum(F.linear(rounded(part), rounded(weight)) for part, weight in zip(*sides, strict=True))
        return out if self.bias is None else out + self.bias


class FakeQuantisedInHalves(FakeQuantised):
    parts = 2


def rounded(x: Tensor) -> Tensor:
    scales = x.abs().amax(-1, keepdim=True) / 448
    return (x / scales).to(torch.float8_e4m3fn).float() * scales


def quantised_truth(directory: Path, ranks: int = 1) -> Truth:
    truth = Truth(directory, None)
    for name, module in truth.model.named_modules():
        if isinstance(module, nn.Linear) and not KEPT.search(name):
            split = ranks == 2 and ROW_PARALLEL.search(name)
            module.__class__ = FakeQuantisedInHalves if split else FakeQuantised
    return truth


def shortfalls(truth: Truth, tokens: list[list[int]]) -> Tensor:
    """How far the logit of each token that followed PROMPTS is below the best one, in standard deviations.

    Both compute the same but for float32's last bits. Where those decide how an activation is rounded, what
    comes after differs by hundredths, and a token that was as good as another one may take its place.
    """
    found = []
    for prompt, output in zip(PROMPTS, tokens, strict=True):
        with torch.inference_mode():
            logits = truth.model(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(output)[:, None]).squeeze(1)
        found.append((logits.amax(1) - chosen) / logits.std(1))
    return torch.cat(found)


def assert_follows(truth: Truth, tokens: list[list[int]]) -> None:
    """Every token is the best, but for one or two that are as good."""
    behind = shortfalls(truth, tokens)
    assert (behind > 0).sum() <= 2
    assert behind.max() < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_quantised_transformers(
    family: str, tiny_model: Callable[..., Path], make_engine: Any, run: Any
) -> None:
    directory = tiny_model(CONFIGS[family]())
    tokens = {}
    for quantization in ("none", "fp8"):
        engine = make_engine(directory, token_budget=96, kv_blocks=32, quantization=quantization)
        tokens[quantization] = [
            got.token_ids for got in run(engine, [(prompt, GREEDY) for prompt in PROMPTS])
        ]
    truth = quantised_truth(directory)
    assert_follows(truth, tokens["fp8"])
    assert (shortfalls(truth, tokens["none"]) > 0.1).any()


def test_each_rank_quantises_its_part(tiny_model: Callable[..., Path], in_ranks: Any, run: Any) -> None:
    """Of a row-parallel matrix each rank has scales of its own, for its columns and for its part of x."""
    directory = tiny_model(CONFIGS["llama"]())

    def work(engine: Engine) -> list[list[int]]:
        return [got.token_ids for got in run(engine, [(prompt, GREEDY) for prompt in PROMPTS])]

    first, second = in_ranks(2, directory, work, token_budget=96, kv_blocks=32, quantization="fp8")
    assert first == second
    assert_follows(quantised_truth(directory, ranks=2), first)


def test_packed_or_not_the_tokens_are_the_same(
    tiny_model: Callable[..., Path], make_engine: Any, run: Any
) -> None:
    directory = tiny_model(CONFIGS["llama"]())
    engines = [
        make_engine(directory, kv_blocks=32, quantization="fp8", prepack_weights=pack)
        for pack in (True, False)
    ]
    packed, plain = ([got.token_ids for got in run(it, [(p, GREEDY) for p in PROMPTS])] for it in engines)
    assert packed == plain
    block = engines[1].runner.decoder.blocks[0]
    for linear in (block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down):
        assert isinstance(linear, QuantisedLinear)
        assert linear.weight.dtype is torch.float8_e4m3fn
    assert not isinstance(engines[1].runner.decoder.head, QuantisedLinear)


def test_16_bit_and_random_weights(tiny_model: Callable[..., Path], make_engine: Any, run: Any) -> None:
    directory = tiny_model(CONFIGS["llama"]())
    for options in ({"dtype": "bfloat16"}, {"dtype": "float16"}, {"random_weights": True}):
        engine = make_engine(directory, kv_blocks=32, quantization="fp8", **options)
        (ran,) = run(engine, [(PROMPTS[2], GREEDY)])
        assert len(ran.token_ids) == GREEDY.max_tokens


@pytest.mark.parametrize(
    ("family", "quantization", "message"),
    [
        ("llama", "fp4", "quantization 'fp4' is none of none, fp8"),
        ("mixtral", "fp8", r"'fp8' is not served for models with experts, and this mixtral has 4.*'none'"),
    ],
)
def test_what_is_refused(
    family: str, quantization: str, message: str, tiny_model: Callable[..., Path]
) -> None:
    directory = tiny_model(CONFIGS[family]())
    with pytest.raises(ModelLoadError, match=message):
        Engine(EngineConfig(model=str(directory), device="cpu", quantization=quantization))


@pytest.mark.parametrize(("capability", "served"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_the_gpu_must_have_8_bit_floats(
    capability: tuple[int, int], served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    if served:
        refuse_without_fp8(torch.device("cuda"))
    else:
        with pytest.raises(ModelLoadError, match=r"capability 8\.9 or newer, and NVIDIA A100 has 8\.0: use"):
            refuse_without_fp8(torch.device("cuda"))
    refuse_without_fp8(torch.device("cpu"))
