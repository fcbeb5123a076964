"""Activations of the feed-forward layers, plain and gated."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mii_kernels.reference.linear import linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": torch.relu,
}


def activate(x: Tensor, kind: str) -> Tensor:
    return ACTIVATIONS[kind](x)


def activate_and_mul(gate_up: Tensor, kind: str) -> Tensor:
    """[tokens, 2 * n]: the gate's half, activated, times the other half -> [tokens, n]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[kind](gate).mul_(up)


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    return activate_and_mul(linear(x, weight, bias), kind)
