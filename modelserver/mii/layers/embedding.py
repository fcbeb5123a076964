"""Token and learned position embeddings."""

import torch.nn.functional as F
from torch import Tensor

from mii.layers.collectives import Collectives
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
        first_token: int = 0,
        collectives: Collectives | None = None,
    ) -> None:
        """weight [vocab, n], positions [max_position + offset, hidden], project n -> hidden (OPT-350m).

        With `collectives`, weight has this rank's part of the vocabulary, from `first_token` on.
        """
        self.weight = weight
        self.positions = positions
        self.position_offset = position_offset
        self.project = project
        self.first_token = first_token
        self.collectives = collectives

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        x = self._rows(token_ids)
        if self.project is not None:
            x = self.project(x)
        if self.positions is not None:
            x = x + F.embedding(positions + self.position_offset, self.positions)
        return x

    def _rows(self, token_ids: Tensor) -> Tensor:
        if self.collectives is None:
            return F.embedding(token_ids, self.weight)
        local = token_ids - self.first_token
        elsewhere = (local < 0) | (local >= self.weight.shape[0])
        x = F.embedding(local.masked_fill(elsewhere, 0), self.weight)
        return self.collectives.all_reduce(x.masked_fill_(elsewhere[:, None], 0))
