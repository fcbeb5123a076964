"""From a Description and a checkpoint to a Decoder: reads every weight once, by name and expected shape.

Under tensor parallelism, one rank's decoder: its part of every weight that is split.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mii.layers.attention import Attention
from mii.layers.collectives import Collectives
from mii.layers.embedding import Embedding
from mii.layers.linear import Linear
from mii.layers.mlp import MLP
from mii.layers.moe import MoE
from mii.layers.norm import Norm
from mii.layers.rotary import cos_sin_table
from mii.models.decoder import Block, Decoder
from mii.models.description import Description, Experts, Names
from mii.models.linears import Linears, Part, Weights, of_experts
from mii.models.shard import Shard, scaled, shifted


class Builder:
    def __init__(
        self,
        description: Description,
        names: Names,
        weights: Weights,
        *,
        max_model_len: int,
        device: torch.device,
        pack: bool = True,
        quantise: bool = False,
        shard: Shard | None = None,
        collectives: Collectives | None = None,
    ) -> None:
        """`pack`: put weights into the backend's fastest layout, at the cost of a second tied embedding.
        `quantise`: to 8-bit floats, the matrices of attention and MLP; not for experts. `shard` of several
        ranks comes with their `collectives`."""
        assert not (quantise and description.experts), "experts are multiplied in the model's dtype only"
        self.it = description
        self.names = names
        self.weights = weights
        self.shard = shard or Shard()
        self.collectives = collectives
        self.linears = Linears(weights, self.shard, pack=pack)
        self.inner = Linears(weights, self.shard, pack=pack, quantise=quantise)  # of attention and MLP
        self.cos_sin: Tensor | None = None
        if description.rotary is not None:
            table = cos_sin_table(description.rotary, max_model_len, description.original_max_position)
            self.cos_sin = table.to(device)

    def build(self) -> Decoder:
        """Raises ModelLoadError on a missing, misshapen or left-over tensor."""
        it, names = self.it, self.names
        embedding = self._embedding()
        decoder = Decoder(
            embedding=embedding,
            blocks=[self._block(layer) for layer in range(it.layers)],
            final_norm=self._norm(names.final_norm) if it.final_norm else None,
            head=self._head(embedding),
            project_out=self.linears.replicated(names.project_out, it.hidden, it.embedding_width, bias=False)
            if it.embedding_width
            else None,
            vocab_size=it.vocab_size,
            collectives=self.collectives,
        )
        self.weights.finish()
        return decoder

    def _embedding(self) -> Embedding:
        it, names = self.it, self.names
        width, offset = it.embedding_width or it.hidden, it.learned_position_offset
        positions = None
        if offset is not None:
            rows = it.max_position + offset
            positions = self.weights.take(f"{names.positions}.weight", rows, it.hidden)
        return Embedding(
            self._of_vocabulary(f"{names.embed}.weight", width),
            positions=positions,
            position_offset=offset or 0,
            project=self.linears.replicated(names.project_in, width, it.hidden, bias=False)
            if it.embedding_width
            else None,
            first_token=self.shard.vocabulary_span(it.vocab_size)[0],
            collectives=self.collectives,
        )

    def _head(self, embedding: Embedding) -> Linear:
        it, name = self.it, self.names.head
        weight = embedding.weight
        if not it.tied or self.weights.has(f"{name}.weight"):
            stored = self._of_vocabulary(f"{name}.weight", weight.shape[1])
            weight = weight if it.tied else stored
        return self.linears.of(weight, self._of_vocabulary(f"{name}.bias") if it.head_bias else None)

    def _of_vocabulary(self, name: str, *width: int) -> Tensor:
        """This rank's rows of a tensor [vocab, *width], filled up to as many as every rank has."""
        shard, vocab = self.shard, self.it.vocab_size
        tensor = self.weights.take(name, vocab, *width, rows=[shard.vocabulary_span(vocab)])
        missing = shard.vocabulary_rows(vocab) - tensor.shape[0]
        return F.pad(tensor, (0, 0) * len(width) + (0, missing)) if missing else tensor

    def _block(self, layer: int) -> Block:
        it, names = self.it, self.names
        prefix = names.layer.format(layer) + "."
        experts = it.experts if it.experts and layer in it.experts.layers else None
        return Block(
            it.block,
            attention=self._attention(prefix, layer),
            mlp=self._moe(prefix, experts) if experts else self._mlp(prefix),
            first_norm=self._norm(prefix + names.first_norm),
            second_norm=self._norm(prefix + names.second_norm) if it.second_norm else None,
        )

    def _attention(self, prefix: str, layer: int) -> Attention:
        it, names, mine = self.it, self.names, self.shard.local(self.it)
        columns = scaled(self.shard.span(it.heads), it.head_dim)
        width = it.heads * it.head_dim
        return Attention(
            self._qkv(prefix),
            self.inner.row_parallel(prefix + names.out, width, it.hidden, columns, bias=it.out_bias),
            num_heads=mine.heads,
            num_kv_heads=mine.kv_heads,
            head_dim=it.head_dim,
            cos_sin=self.cos_sin,
            interleaved=it.rotary.interleaved if it.rotary else False,
            window=it.window(layer),
            query_norm=self._head_norm(prefix + names.query_norm) if it.qk_norm else None,
            key_norm=self._head_norm(prefix + names.key_norm) if it.qk_norm else None,
        )

    def _qkv(self, prefix: str) -> Linear:
        """Rows in the order Q, K, V, whatever the checkpoint's."""
        it, names, shard = self.it, self.names, self.shard
        if names.fused_qkv:
            rows = shard.fused_qkv_rows(it, grouped=names.qkv_grouped)
            parts = [Part(prefix + names.fused_qkv, (it.heads + 2 * it.kv_heads) * it.head_dim, rows)]
        else:
            queries, keys = (it.heads, shard.span(it.heads)), (it.kv_heads, shard.kv_span(it.kv_heads))
            parts = [
                Part(prefix + name, heads * it.head_dim, [scaled(span, it.head_dim)])
                for name, (heads, span) in (
                    (names.query, queries),
                    (names.key, keys),
                    (names.value, keys),
                )
            ]
        return self.inner.column_parallel(parts, it.hidden, bias=it.qkv_bias)

    def _mlp(self, prefix: str) -> MLP:
        it, names = self.it, self.names
        up = [names.gate, names.up] if it.gated else [names.up]
        fused = names.fused_gate_up if it.gated else ""
        return self._feed_forward(prefix, up, names.down, it.intermediate, bias=it.mlp_bias, fused=fused)

    def _feed_forward(
        self, prefix: str, up: list[str], down: str, width: int, *, bias: bool = False, fused: str = ""
    ) -> MLP:
        """`up` are a gate and its other half, or one plain matrix; `fused` is one matrix with both."""
        return MLP(
            self._up(prefix, up, width, bias=bias, fused=fused),
            self._down(prefix + down, width, bias=bias),
            self.it.activation,
            gated=len(up) == 2,
        )

    def _up(self, prefix: str, up: list[str], width: int, *, bias: bool = False, fused: str = "") -> Linear:
        span = self.shard.span(width)
        if fused:
            parts = [Part(prefix + fused, 2 * width, [span, shifted(span, width)])]
        else:
            parts = [Part(prefix + name, width, [span]) for name in up]
        return self.inner.column_parallel(parts, self.it.hidden, bias=bias)

    def _down(self, name: str, width: int, *, bias: bool = False) -> Linear:
        return self.inner.row_parallel(name, width, self.it.hidden, self.shard.span(width), bias=bias)

    def _moe(self, prefix: str, experts: Experts) -> MoE:
        """Every rank has a part of every expert, so that all are equally busy."""
        it, names = self.it, self.names
        up = [names.expert_gate, names.expert_up]
        inner = [f"{prefix}{names.expert.format(expert)}." for expert in range(experts.count)]
        width, shared = experts.intermediate, experts.shared_intermediate
        gate_up = (self._up(at, up, width).weight for at in inner)
        down = (self._down(at + names.expert_down, width).weight for at in inner)
        return MoE(
            self.linears.replicated(prefix + names.router, it.hidden, experts.count, bias=False),
            of_experts(gate_up, experts.count),
            of_experts(down, experts.count),
            per_token=experts.per_token,
            renormalise=experts.renormalise,
            activation=it.activation,
            shared=self._feed_forward(f"{prefix}{names.shared_expert}.", up, names.expert_down, shared)
            if shared
            else None,
            shared_gate=self.linears.replicated(prefix + names.shared_expert_gate, it.hidden, 1, bias=False)
            if shared
            else None,
        )

    def _norm(self, name: str) -> Norm:
        it = self.it
        weight = self.weights.take(f"{name}.weight", it.hidden)
        bias = self.weights.take(f"{name}.bias", it.hidden) if it.norm_bias else None
        return Norm(weight, bias, it.norm_eps, rms=it.norm == "rms", collectives=self.collectives)

    def _head_norm(self, name: str) -> Norm:
        return Norm(self.weights.take(f"{name}.weight", self.it.head_dim), None, self.it.norm_eps, rms=True)
