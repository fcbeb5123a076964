"""What benchmarks/kernels.py measures of 8-bit floats: quantising tokens, and the products with it."""

from typing import Any

import torch
from torch import Tensor

from kernel_case import Case, Inputs, Sizes, layer_weights
from mii_kernels import reference

TOKENS = (1, 16, 64, 512, 8192)


def quantised_cases(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    """The four weights of a decoder layer, and the tokens that the widest of them takes."""
    widths = (sizes.hidden, sizes.intermediate)
    quantise = [_quantise(tokens, n, dtype) for n in widths for tokens in sizes.tokens]
    return quantise + [_linear(tokens, n, k, dtype) for n, k in layer_weights(sizes) for tokens in TOKENS]


def _quantise(tokens: int, n: int, dtype: torch.dtype) -> Case:
    def run(ops: Any, x: Tensor) -> Tensor:
        values: Tensor = ops.quantise(x)[0]
        return values

    return Case(
        "quantise",
        f"{tokens}x{n}",
        lambda device: (torch.randn(tokens, n, device=device).to(dtype),),
        run,
        lambda x: reference.quantise(x)[0].double(),
        tokens * (n * (dtype.itemsize + 1) + 4),
    )


def _linear(tokens: int, n: int, k: int, dtype: torch.dtype) -> Case:
    """With the tokens' quantisation; the exact result is that of the quantised values."""

    def make(device: torch.device) -> Inputs:
        x, weight = (torch.randn(rows, k, device=device).to(dtype) for rows in (tokens, n))
        return x, *reference.quantise_weight(weight), None

    def run(ops: Any, *inputs: Any) -> Tensor:
        out: Tensor = ops.quantised_linear(*inputs)
        return out

    def exact(x: Tensor, weight: Tensor, scales: Tensor, _: None) -> Tensor:
        values, x_scales = reference.quantise(x)
        return (values.double() @ weight.double().T) * x_scales.double()[:, None] * scales.double()

    moved = n * (k + 4) + dtype.itemsize * tokens * (n + k)
    shape = f"{tokens}x{k} by {n}x{k}"
    return Case("quantised_linear", shape, make, run, exact, moved, flops=2 * tokens * n * k)
