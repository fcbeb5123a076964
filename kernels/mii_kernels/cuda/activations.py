"""Activations of the feed-forward layers, plain and gated."""

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import ACTIVATIONS, Library
from mii_kernels.cuda.arguments import launch, served


def activate(library: Library, x: Tensor, kind: str) -> Tensor:
    if not served(x):
        return reference.activate(x, kind)
    n = x.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        args = (out, x.contiguous(), x.numel() // n, n, ACTIVATIONS[kind], x.dtype)
        launch(library, "mii_activate", *args, on=x)
    return out


def activate_and_mul(library: Library, gate_up: Tensor, kind: str) -> Tensor:
    if not served(gate_up):
        return reference.activate_and_mul(gate_up, kind)
    n = gate_up.shape[-1] // 2
    out = torch.empty((*gate_up.shape[:-1], n), dtype=gate_up.dtype, device=gate_up.device)
    if out.numel():
        args = (out, gate_up.contiguous(), out.numel() // n, n, ACTIVATIONS[kind], gate_up.dtype)
        launch(library, "mii_activate_and_mul", *args, on=gate_up)
    return out
