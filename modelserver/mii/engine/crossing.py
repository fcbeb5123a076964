"""Numbers on their way between host and device. Nothing here waits for a GPU: copies queue in its stream."""

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[len(values)] on the device; from pinned memory, as a GPU is waited for otherwise."""
    host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


def start_reading(tensor: Tensor) -> Tensor:
    """The tensor on the host: from a GPU, once this has done what was queued until now."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
