"""How many blocks the KV cache gets, and which lengths fit."""

from typing import Any

import pytest
import torch

from mii.config import EngineConfig
from mii.engine import memory
from mii.errors import ModelLoadError
from mii.models.description import Description

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
BLOCK = 2 * 3 * 2 * 64 * 16 * 2  # K and V, layers, heads, tokens, columns, bytes


@pytest.fixture
def description() -> Description:
    sizes = {"vocab_size": 8, "hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 16}
    return Description(
        family="llama", **sizes, intermediate=64, max_position=4096, original_max_position=4096
    )


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with room for 1000 blocks and a half."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000 * BLOCK + BLOCK // 2, 80 * 2**30))
    monkeypatch.setattr(memory, "_available_ram", lambda: 1000 * BLOCK)
    monkeypatch.setattr(memory, "_cgroup_room", lambda: 600 * BLOCK)


def blocks(description: Description, device: torch.device, **options: Any) -> int:
    config = EngineConfig(model="none", **options)
    return memory.num_kv_blocks(config, description, torch.bfloat16, device)


def test_a_gpus_free_memory_is_shared_out_by_the_fraction(description: Description, free: None) -> None:
    assert blocks(description, CUDA, kv_memory_fraction=0.5) == 500
    assert blocks(description, CUDA, kv_memory_fraction=1.0) == 1000
    assert blocks(description, CUDA, kv_memory_fraction=0.5, tensor_parallel=2) == 500, "each has its own"


def test_ranks_on_a_cpu_share_its_memory(description: Description, free: None) -> None:
    assert blocks(description, CPU, kv_memory_fraction=0.5) == 300
    assert blocks(description, CPU, kv_memory_fraction=0.5, tensor_parallel=2) == 150


def test_a_number_that_is_asked_for_is_taken(description: Description, free: None) -> None:
    assert blocks(description, CUDA, kv_blocks=7) == 7


def test_a_length_that_does_not_fit_is_refused(description: Description, free: None) -> None:
    assert blocks(description, CUDA, kv_memory_fraction=0.01, max_model_len=640) == 10
    with pytest.raises(ModelLoadError, match=r"room for 10 blocks .* max_model_len 641 needs 11"):
        blocks(description, CUDA, kv_memory_fraction=0.01, max_model_len=641)


def test_without_a_length_it_is_what_model_and_cache_hold(description: Description) -> None:
    config = EngineConfig(model="none")
    assert memory.max_model_len(config, description, 10) == 640
    assert memory.max_model_len(config, description, 100) == 4096
    with pytest.raises(ModelLoadError, match="max_model_len 4097 is more than the 4096 positions"):
        memory.max_model_len(EngineConfig(model="none", max_model_len=4097), description, 100)
