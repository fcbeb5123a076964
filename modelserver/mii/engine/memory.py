"""How much memory a device has left, and how many KV blocks go into it."""

import os
from pathlib import Path

import torch

from mii.config import BLOCK_SIZE, EngineConfig
from mii.engine.sequence import blocks_for
from mii.errors import ModelLoadError
from mii.models.description import Description

CPU_KV_LIMIT = 4 * 1024**3  # a laptop's memory is not the server's alone; kv_blocks goes beyond
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available_ram(), _cgroup_room())


def block_bytes(description: Description, dtype: torch.dtype) -> int:
    """K and V of one block in every layer."""
    elements = description.layers * description.kv_heads * BLOCK_SIZE * description.head_dim
    return 2 * elements * dtype.itemsize


def num_kv_blocks(
    config: EngineConfig, description: Description, dtype: torch.dtype, device: torch.device
) -> int:
    """For one rank's part of the model. Raises ModelLoadError if not even one sequence of the asked length
    fits."""
    free = free_bytes(device)
    ranks = config.tensor_parallel if device.type == "cpu" else 1  # that share this memory
    if config.kv_blocks is not None:
        blocks = config.kv_blocks
    else:
        room = min(free, CPU_KV_LIMIT) // ranks if device.type == "cpu" else free
        blocks = int(room * config.kv_memory_fraction) // block_bytes(description, dtype)
    needed = blocks_for(config.max_model_len) if config.max_model_len else 1
    if blocks < needed:
        raise ModelLoadError(
            f"the KV cache has room for {blocks} blocks of {block_bytes(description, dtype):,} bytes "
            f"({free:,} bytes are free, kv_memory_fraction is {config.kv_memory_fraction}), but "
            f"max_model_len {config.max_model_len} needs {needed}: lower max_model_len or raise the fraction"
        )
    return blocks


def max_model_len(config: EngineConfig, description: Description, kv_blocks: int) -> int:
    """The asked length, or the model's as far as the cache holds one sequence of it."""
    if config.max_model_len is None:
        return min(description.max_position, kv_blocks * BLOCK_SIZE)
    if config.max_model_len > description.max_position:
        raise ModelLoadError(
            f"max_model_len {config.max_model_len} is more than the {description.max_position} "
            "positions that the model was made for"
        )
    return config.max_model_len


def _available_ram() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cgroup_room() -> int:
    """What the container's memory limit leaves; huge without one."""
    for limit, usage in _CGROUP_FILES:
        try:
            return int(Path(limit).read_text()) - int(Path(usage).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 1 << 62
