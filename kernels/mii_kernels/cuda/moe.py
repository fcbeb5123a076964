"""Mixture of experts: gate, permutations and the experts' products, without waiting for the device."""

from typing import TypeGuard

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.activations import activate_and_mul
from mii_kernels.cuda.arguments import column, launch, served
from mii_kernels.cuda.grouped_gemm import grouped_gemm, likely_rows
from mii_kernels.reference.moe import ExpertWeights

MAX_EXPERTS = 512  # of the gate, whose warps keep a token's logits in registers


def moe_gate(library: Library, logits: Tensor, per_token: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    if not served(logits) or logits.shape[1] > MAX_EXPERTS:
        return reference.moe_gate(logits, per_token, renormalise)
    shape = (len(logits), per_token)
    weights = torch.empty(shape, dtype=torch.float32, device=logits.device)
    experts = torch.empty(shape, dtype=torch.int64, device=logits.device)
    sizes = (*logits.shape, per_token, int(renormalise))
    launch(library, "mii_moe_gate", weights, experts, logits.contiguous(), *sizes, logits.dtype, on=logits)
    return weights, experts


def moe_experts(
    library: Library,
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    gate_up: ExpertWeights,
    down: ExpertWeights,
    kind: str,
) -> Tensor:
    if not (_stacked(gate_up) and _stacked(down) and served(x, gate_up, down)):
        return reference.moe_experts(x, weights, experts, gate_up, down, kind)
    likely = likely_rows(*experts.shape, len(gate_up))
    rows, positions, starts = permute(library, x, experts, len(gate_up))
    hidden = activate_and_mul(library, grouped_gemm(library, rows, gate_up, starts, likely), kind)
    said = grouped_gemm(library, hidden, down, starts, likely)
    return unpermute(library, said, weights, positions)


def _stacked(weights: ExpertWeights) -> TypeGuard[Tensor]:
    return isinstance(weights, Tensor) and weights.is_contiguous()


def permute(library: Library, x: Tensor, experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """x [tokens, n], experts [tokens, per_token] int64 ->

    rows [tokens * per_token, n]: a copy of the token for each choice, those of one expert adjacent;
    positions [tokens, per_token] int32: the row of each choice;
    starts [num_experts + 1] int32: the first row of each expert.
    """
    tokens, per_token = experts.shape
    rows = torch.empty((tokens * per_token, x.shape[1]), dtype=x.dtype, device=x.device)
    positions = torch.empty((tokens, per_token), dtype=torch.int32, device=x.device)
    starts = torch.empty(num_experts + 1, dtype=torch.int32, device=x.device)
    sizes = (tokens, x.shape[1], per_token, num_experts)
    args = (rows, positions, starts, x.contiguous(), column(experts, torch.int64), *sizes, x.dtype)
    launch(library, "mii_moe_permute", *args, on=x)
    return rows, positions, starts


def unpermute(library: Library, rows: Tensor, weights: Tensor, positions: Tensor) -> Tensor:
    """rows [tokens * per_token, n], weights float32, positions [tokens, per_token] -> each token's rows,
    weighted and added up, [tokens, n]."""
    tokens, per_token = positions.shape
    out = torch.empty((tokens, rows.shape[1]), dtype=rows.dtype, device=rows.device)
    args = (
        out,
        rows,
        column(weights, torch.float32),
        positions,
        tokens,
        rows.shape[1],
        per_token,
        rows.dtype,
    )
    launch(library, "mii_moe_unpermute", *args, on=rows)
    return out
