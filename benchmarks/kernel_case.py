"""A case of benchmarks/kernels.py: an operation on inputs of a real model's size, with the exact result.

A case makes fresh inputs, runs an operation of a backend (`mii_kernels.reference`, or one over the CUDA
library) on them, and knows in float64 what should come out and how many bytes must at least be moved: every
input read once, every output written once. The cases are in token_cases.py, logits_cases.py,
tensor_core_cases.py and quantised_cases.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    op: str
    shape: str
    make: Callable[[torch.device], Inputs]
    run: Callable[..., Tensor]  # (backend, *inputs) -> what is compared
    exact: Callable[..., Tensor]  # (*inputs) -> float64; for tokens and counts: the reference's
    moved: int  # bytes
    flops: int = 0  # of the tensor cores' operations
    reference_waits: bool = False  # for the device: the reference cannot be captured in a graph


@dataclass(frozen=True)
class Sizes:
    """Of Mistral-7B, unless said otherwise; `vocab` is Llama 3's."""

    tokens: tuple[int, ...] = (64, 8192)
    rows: int = 256  # to sample
    hidden: int = 4096
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    rotary: float = 1.0  # share of a head that is rotated
    intermediate: int = 14336
    gated: bool = True  # the MLP
    vocab: int = 128256
    experts: int = 8  # 0: none


def sizes_of(config: dict[str, Any]) -> Sizes:
    """Of one of shapes.py's models, by its config.json."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return Sizes(
        hidden=hidden,
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head_dim=hidden // heads,
        rotary=config.get("partial_rotary_factor", 1.0),
        intermediate=config["intermediate_size"],
        gated=config["hidden_act"] == "silu",
        vocab=config["vocab_size"],
        experts=config.get("num_local_experts", 0),
    )


def layer_weights(sizes: Sizes) -> tuple[tuple[int, int], ...]:
    """[out, in] of the four weights of a decoder layer: qkv, output, up (with the gate, if any), down."""
    hidden, inner = sizes.hidden, sizes.heads * sizes.head_dim
    qkv, up = inner + 2 * sizes.kv_heads * sizes.head_dim, (1 + sizes.gated) * sizes.intermediate
    return (qkv, hidden), (hidden, inner), (up, hidden), (hidden, sizes.intermediate)


def normal(device: torch.device, dtype: torch.dtype, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape, device=device).to(dtype) for shape in shapes)
