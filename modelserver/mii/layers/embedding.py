"""Token and learned position embeddings."""

import torch.nn.functional as F
from torch import Tensor

from mii.layers.linear import Linear


class Embedding:
    """token_ids, positions [tokens] -> [tokens, hidden]."""

    def __init__(
        self,
        weight: Tensor,
        *,
        positions: Tensor | None = None,
        position_offset: int = 0,
        project: Linear | None = None,
    ) -> None:
        """weight [vocab, n], positions [max_position + offset, hidden], project n -> hidden (OPT-350m)."""
        self.weight = weight
        self.positions = positions
        self.position_offset = position_offset
        self.project = project

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        x = F.embedding(token_ids, self.weight)
        if self.project is not None:
            x = self.project(x)
        if self.positions is not None:
            x = x + F.embedding(positions + self.position_offset, self.positions)
        return x
