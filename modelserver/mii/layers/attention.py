"""Self-attention over the paged KV cache."""

from torch import Tensor

from mii.layers.linear import Linear
from mii.layers.norm import Norm
from mii_kernels import ops
from mii_kernels.batch import RaggedBatch


class Attention:
    """x [tokens, hidden] -> [tokens, hidden], and what has become of the residual (see Linear.onto); K and V
    of the tokens go into the layer's cache."""

    def __init__(
        self,
        qkv: Linear,
        out: Linear,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        cos_sin: Tensor | None,
        interleaved: bool = False,
        window: int | None = None,
        query_norm: Norm | None = None,
        key_norm: Norm | None = None,
    ) -> None:
        """cos_sin [positions, rotary_dim] float32, None without rotary positions."""
        self.qkv = qkv
        self.out = out
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.cos_sin = cos_sin
        self.interleaved = interleaved
        self.window = window
        self.query_norm = query_norm
        self.key_norm = key_norm
        self.scale = head_dim**-0.5

    def __call__(
        self,
        x: Tensor,
        batch: RaggedBatch,
        k_cache: Tensor,
        v_cache: Tensor,
        residual: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """k_cache, v_cache [blocks, kv_heads, block_size, head_dim]."""
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = self.qkv(x).view(-1, heads + 2 * kv_heads, self.head_dim)
        if self.query_norm is not None and self.key_norm is not None:
            qkv[:, :heads] = self.query_norm(qkv[:, :heads])[0]
            qkv[:, heads : heads + kv_heads] = self.key_norm(qkv[:, heads : heads + kv_heads])[0]
        query = ops.rope_and_store_kv(
            qkv, self.cos_sin, batch, k_cache, v_cache, num_heads=heads, interleaved=self.interleaved
        )
        attended = ops.paged_attention(query, k_cache, v_cache, batch, scale=self.scale, window=self.window)
        return self.out.onto(attended.view(-1, heads * self.head_dim), residual)
