"""What launchers take, from tensors."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from mii_kernels._lib import DTYPES, Library

_CODES = {getattr(torch, name): code for name, code in DTYPES.items()}


def served(*tensors: Tensor | None) -> bool:
    """Whether all have one dtype, and one that kernels have."""
    dtypes = {x.dtype for x in tensors if x is not None}
    return len(dtypes) == 1 and dtypes <= _CODES.keys()


def launch(library: Library, name: str, *args: Any, on: Tensor) -> None:
    """Calls a launcher on the current stream of `on`'s device. Tensors go as pointers, dtypes as codes."""
    if not on.is_cuda:  # the tests' library, which runs on the CPU
        library.call(name, *map(_argument, args), 0)
        return
    with torch.cuda.device(on.device):
        library.call(name, *map(_argument, args), torch.cuda.current_stream().cuda_stream)


def column(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x as a launcher reads it; x itself as a rule."""
    return x.to(dtype).contiguous()


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Major and minor compute capability."""
    if device.type == "cpu":  # the tests' library, which has all that any device has
        return 9, 0
    return torch.cuda.get_device_capability(device)


@cache
def multiprocessors(device: torch.device) -> int:
    """That thread blocks spread over."""
    if device.type == "cpu":  # the tests' library, which has none: few, so that small batches are split
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.data_ptr()
    return _CODES[value] if isinstance(value, torch.dtype) else value
