"""What an engine is made of before it runs: a device, weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from mii.config import EngineConfig
from mii.core import SamplingParams
from mii.engine.device import choose_device
from mii.engine.engine import Engine
from mii.engine.loading import find_model, load_model
from mii.errors import ModelLoadError


@pytest.mark.parametrize("name", ["tpu", "meta", "cpu:x", ""])
def test_a_device_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ModelLoadError, match=f"device '{name}' is none of auto, cpu, cuda, cuda:N"):
        choose_device(name)


def test_engines_share_what_is_loaded(tiny_model: Callable[..., Path], run: Any) -> None:
    small: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
    }
    model = tiny_model(LlamaConfig(**small, num_hidden_layers=2, num_key_value_heads=2))
    config = EngineConfig(model=str(model), device="cpu", kv_blocks=8)
    loaded = load_model(config, find_model(config))
    engines = [Engine(config), Engine(config, loaded=loaded), Engine(config, loaded=loaded)]
    assert engines[1].runner.decoder is engines[2].runner.decoder
    requests = [([5, 6, 7], SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True))]
    own, first, second = (run(engine, requests)[0].token_ids for engine in engines)
    assert own == first == second
