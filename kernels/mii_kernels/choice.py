"""What the operations run on: the references, or our kernels where CUDA tensors can have them."""

import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from mii_kernels import _lib, cuda, reference
from mii_kernels._lib import KernelError, Library

log = logging.getLogger(__name__)

KERNELS = ("auto", "cuda", "torch")
# Operations whose references look at numbers on the host before they launch: no graph does.
_READ_BY_HOST = {"paged_attention", "moe_experts"}
_cuda: Any = reference  # what CUDA tensors run on: torch runs the references on a GPU as they are
_library: Library | None = None  # of our kernels, where they are in use
_without: frozenset[str] = frozenset()  # operations that the references serve all the same


def use_kernels(choice: str, device: int = 0, without: Collection[str] = ()) -> None:
    """What the operations on CUDA tensors run on in this process, which uses one CUDA device.

    `torch`: the references; `cuda`: our kernels, KernelError if they cannot be had for the device; `auto`:
    our kernels, or with a warning the references if they cannot. `without`: operations, by their names in
    `ops`, that stay with the references where the engine calls them, to see what their kernels are worth (a
    kernel's wrapper that falls back on another one of ours still does); KernelError for a name that is no
    operation with a kernel.
    """
    global _cuda, _library, _without
    if choice not in KERNELS:
        raise KernelError(f"kernels {choice!r} is none of {', '.join(KERNELS)}")
    if unknown := set(without) - set(cuda.NAMES):
        named = ", ".join(sorted(unknown))
        raise KernelError(f"no operation with a kernel: {named}; those are {', '.join(cuda.NAMES)}")
    _library = None if choice == "torch" else _load(choice, device)
    _cuda = reference if _library is None else cuda.backend(_library, without)
    _without = frozenset(without)


def _load(choice: str, device: int) -> Library | None:
    try:
        return _lib.load(device)
    except KernelError as error:
        if choice == "cuda":
            raise
        log.warning("the GPU runs PyTorch's operations, as our kernels cannot be had: %s", error)
        return None


def library(device: torch.device) -> Library | None:
    """Our kernels, if tensors of this device run on them: for what is no operation of one device."""
    return _library if device.type == "cuda" else None


def decodes_on_device(k_cache: Tensor) -> bool:
    """Whether decodes over this cache are the same kernels however long the contexts are and whatever experts
    they go to, so that a CUDA graph can hold them."""
    on_kernels = _library is not None and not _without & _READ_BY_HOST
    return on_kernels and k_cache.is_cuda and cuda.attention.serves(k_cache)


def backend(tensor: Tensor) -> Any:
    """What serves this tensor's device."""
    return _cuda if tensor.is_cuda else reference
