"""The one decoder. What it is made of comes from a Description (see builder.py)."""

from typing import Literal

from torch import Tensor

from mii.layers.attention import Attention
from mii.layers.collectives import Collectives
from mii.layers.embedding import Embedding
from mii.layers.linear import Linear
from mii.layers.mlp import MLP
from mii.layers.moe import MoE
from mii.layers.norm import Norm
from mii_kernels.batch import RaggedBatch

KVCache = list[tuple[Tensor, Tensor]]  # by layer: K and V, [blocks, kv_heads, block_size, head_dim] each


class Block:
    """One layer. Takes and returns (x, residual), the summands of the residual stream, or their sum and None.

    Under tensor parallelism an x that comes with a residual is this rank's part of a sum, which the next norm
    completes.
    """

    def __init__(
        self,
        kind: Literal["sequential", "parallel", "post_norm"],
        attention: Attention,
        mlp: MLP | MoE,
        first_norm: Norm,
        second_norm: Norm | None,
    ) -> None:
        self.attention = attention
        self.mlp = mlp
        self.first_norm = first_norm
        self.second_norm = second_norm
        self._run = {
            "sequential": self._sequential,
            "parallel": self._parallel,
            "post_norm": self._post_norm,
        }[kind]

    def __call__(
        self, x: Tensor, residual: Tensor | None, batch: RaggedBatch, cache: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        return self._run(x, residual, batch, cache)

    def _sequential(
        self, x: Tensor, residual: Tensor | None, batch: RaggedBatch, cache: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        assert self.second_norm is not None
        x, residual = self.first_norm(x, residual)
        x, residual = self.second_norm(*self.attention(x, batch, *cache, residual))
        return self.mlp(x, residual)

    def _parallel(
        self, x: Tensor, residual: Tensor | None, batch: RaggedBatch, cache: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        x, residual = self.first_norm(x, residual)
        fed = x if self.second_norm is None else self.second_norm(residual)[0]
        return self.attention(x, batch, *cache)[0] + self.mlp(fed)[0], residual

    def _post_norm(
        self, x: Tensor, residual: Tensor | None, batch: RaggedBatch, cache: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        assert self.second_norm is not None
        assert residual is None
        x, _ = self.first_norm(*self.attention(x, batch, *cache, x))
        x, _ = self.second_norm(*self.mlp(x, x))
        return x, None


class Decoder:
    def __init__(
        self,
        embedding: Embedding,
        blocks: list[Block],
        final_norm: Norm | None,
        head: Linear,
        project_out: Linear | None = None,
        *,
        vocab_size: int,
        collectives: Collectives | None = None,
    ) -> None:
        """With `collectives`, head yields this rank's part of the vocabulary."""
        self.embedding = embedding
        self.blocks = blocks
        self.final_norm = final_norm
        self.head = head
        self.project_out = project_out
        self.vocab_size = vocab_size
        self.collectives = collectives

    def __call__(self, token_ids: Tensor, batch: RaggedBatch, cache: KVCache) -> Tensor:
        """token_ids [tokens] -> hidden states [tokens, hidden] after the last layer, before the final norm's
        consumers: ready for `logits`."""
        x = self.embedding(token_ids, batch.positions)
        residual: Tensor | None = None
        for block, layer_cache in zip(self.blocks, cache, strict=True):
            x, residual = block(x, residual, batch, layer_cache)
        if self.final_norm is not None:
            return self.final_norm(x, residual)[0]
        if residual is None:
            return x
        return residual + (x if self.collectives is None else self.collectives.all_reduce(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] -> [n, vocab], the same bits on every rank."""
        if self.project_out is not None:
            hidden = self.project_out(hidden)
        logits = self.head(hidden)
        return logits if self.collectives is None else self.collectives.all_gather(logits, self.vocab_size)
