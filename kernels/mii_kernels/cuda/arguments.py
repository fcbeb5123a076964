"""What launchers take, from tensors."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from mii_kernels._lib import DTYPES, Library

_CODES = {getattr(torch, name): code for name, code in DTYPES.items()}
_PLAIN = {int, float, bool, type(None)}


def served(first: Tensor, *others: Tensor | None) -> bool:
    """Whether all have one dtype, and one that kernels have."""
    dtype = first.dtype
    for x in others:
        if x is not None and x.dtype != dtype:
            return False
    return dtype in _CODES


def launch(library: Library, name: str, *args: Any, on: Tensor) -> None:
    """Calls a launcher on the current stream of `on`'s device. Tensors go as pointers, dtypes as codes.

    A step of prompts has hundreds of these calls, and where prompts are short the GPU waits for them.
    """
    values = [
        value if (kind := type(value)) in _PLAIN else value.data_ptr() if kind is Tensor else _argument(value)
        for value in args
    ]
    if not on.is_cuda:  # the tests' library, which runs on the CPU
        library.call(name, *values, 0)
    elif (device := on.get_device()) == torch.cuda.current_device():
        library.call(name, *values, _stream(device))
    else:
        with torch.cuda.device(device):
            library.call(name, *values, _stream(device))


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


def _stream(device: int) -> int:
    """The handle of the current one, as Triton's launchers get it: torch.cuda.current_stream makes an object,
    which takes longer than the launch."""
    return int(torch._C._cuda_getCurrentRawStream(device))


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.data_ptr()
    return _CODES[value] if isinstance(value, torch.dtype) else value
