"""Mixture of experts: choose experts per token, run each expert on its tokens, add up what they say."""

import torch
from torch import Tensor

from mii_kernels.reference.activations import activate_and_mul
from mii_kernels.reference.linear import linear

ExpertWeights = Tensor | list[Tensor]  # [experts, out, in], or of each expert a packed one


def moe_gate(logits: Tensor, per_token: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    """Softmax over all experts in float32, the best `per_token` of each row, optionally summing to one."""
    weights, experts = torch.softmax(logits, dim=-1, dtype=torch.float32).topk(per_token, dim=-1)
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, experts


def moe_experts(
    x: Tensor, weights: Tensor, experts: Tensor, gate_up: ExpertWeights, down: ExpertWeights, kind: str
) -> Tensor:
    """Tokens are permuted so that each expert's are adjacent: one pair of products an expert."""
    per_token = experts.shape[1]
    order = experts.flatten().argsort(stable=True)
    counts = torch.bincount(experts.flatten(), minlength=len(gate_up)).tolist()
    tokens = order // per_token
    out = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    start = 0
    for expert, count in enumerate(counts):
        if count:
            mine = order[start : start + count]
            token = tokens[start : start + count]
            hidden = activate_and_mul(linear(x[token], gate_up[expert], None), kind)
            said = linear(hidden, down[expert], None)
            out.index_add_(0, token, said * weights.flatten()[mine, None].to(x.dtype))
            start += count
    return out
