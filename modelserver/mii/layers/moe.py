"""The sparse feed-forward layer: a few experts per token, optionally one expert shared by all tokens."""

import torch
from torch import Tensor

from mii.layers.linear import Linear
from mii.layers.mlp import MLP
from mii_kernels import ops


class MoE:
    """x [tokens, n] -> [tokens, n], and the residual as it was."""

    def __init__(
        self,
        router: Linear,
        gate_up: ops.ExpertWeights,
        down: ops.ExpertWeights,
        *,
        per_token: int,
        renormalise: bool,
        activation: str,
        shared: MLP | None = None,
        shared_gate: Linear | None = None,
    ) -> None:
        """gate_up [experts, 2 m, n] and down [experts, n, m], or lists of packed ones; `shared_gate` [1, n]
        scales the shared expert."""
        self.router = router
        self.gate_up = gate_up
        self.down = down
        self.per_token = per_token
        self.renormalise = renormalise
        self.activation = activation
        self.shared = shared
        self.shared_gate = shared_gate

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        weights, experts = ops.moe_gate(self.router(x), self.per_token, renormalise=self.renormalise)
        out = ops.moe_experts(x, weights, experts, self.gate_up, self.down, self.activation)
        if self.shared is not None:
            shared, _ = self.shared(x)
            out += shared if self.shared_gate is None else torch.sigmoid(self.shared_gate(x)) * shared
        return out, residual
