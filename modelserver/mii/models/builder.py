"""From a Description and a checkpoint to a Decoder: reads every weight once, by name and expected shape."""

from typing import Protocol

import torch
from torch import Tensor

from mii.layers.attention import Attention
from mii.layers.embedding import Embedding
from mii.layers.linear import Linear
from mii.layers.mlp import MLP
from mii.layers.moe import MoE
from mii.layers.norm import Norm
from mii.layers.rotary import cos_sin_table
from mii.models.decoder import Block, Decoder
from mii.models.description import Description, Experts, Names


class Weights(Protocol):
    def has(self, name: str) -> bool: ...

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor on its device and in its dtype; raises ModelLoadError if it is missing or misshapen."""

    def finish(self) -> None:
        """Raises ModelLoadError if the checkpoint holds tensors that nobody took."""


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
    ) -> None:
        """`pack`: put weights into the backend's fastest layout, at the cost of a second tied embedding."""
        self.it = description
        self.names = names
        self.weights = weights
        self.pack = pack
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
            project_out=self._linear(names.project_out, it.hidden, it.embedding_width, bias=False)
            if it.embedding_width
            else None,
        )
        self.weights.finish()
        return decoder

    def _embedding(self) -> Embedding:
        it, names = self.it, self.names
        width, offset = it.embedding_width or it.hidden, it.learned_position_offset
        table = self.weights.take(f"{names.embed}.weight", it.vocab_size, width)
        positions = None
        if offset is not None:
            rows = it.max_position + offset
            positions = self.weights.take(f"{names.positions}.weight", rows, it.hidden)
        project = self._linear(names.project_in, width, it.hidden, bias=False) if it.embedding_width else None
        return Embedding(table, positions=positions, position_offset=offset or 0, project=project)

    def _head(self, embedding: Embedding) -> Linear:
        it, name = self.it, self.names.head
        weight = embedding.weight
        if not it.tied or self.weights.has(f"{name}.weight"):
            stored = self.weights.take(f"{name}.weight", *weight.shape)
            weight = weight if it.tied else stored
        bias = self.weights.take(f"{name}.bias", it.vocab_size) if it.head_bias else None
        return Linear(weight, bias, pack=self.pack)

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
        it, names = self.it, self.names
        width = it.heads * it.head_dim
        return Attention(
            self._qkv(prefix),
            self._linear(prefix + names.out, width, it.hidden, bias=it.out_bias),
            num_heads=it.heads,
            num_kv_heads=it.kv_heads,
            head_dim=it.head_dim,
            cos_sin=self.cos_sin,
            interleaved=it.rotary.interleaved if it.rotary else False,
            window=it.window(layer),
            query_norm=self._head_norm(prefix + names.query_norm) if it.qk_norm else None,
            key_norm=self._head_norm(prefix + names.key_norm) if it.qk_norm else None,
        )

    def _qkv(self, prefix: str) -> Linear:
        """Rows in the order Q, K, V, whatever the checkpoint's."""
        it, names = self.it, self.names
        rows = {names.query: it.heads, names.key: it.kv_heads, names.value: it.kv_heads}
        if not names.fused_qkv:
            sizes = {name: heads * it.head_dim for name, heads in rows.items()}
            return self._stacked(prefix, sizes, it.hidden, bias=it.qkv_bias)
        total = sum(rows.values()) * it.head_dim
        weight = self.weights.take(f"{prefix}{names.fused_qkv}.weight", total, it.hidden)
        bias = self.weights.take(f"{prefix}{names.fused_qkv}.bias", total) if it.qkv_bias else None
        if names.qkv_grouped:
            weight = self._ungroup(weight)
            bias = None if bias is None else self._ungroup(bias)
        return Linear(weight, bias, pack=self.pack)

    def _ungroup(self, fused: Tensor) -> Tensor:
        """Rows by KV head (its queries, key, value) -> rows (all queries, all keys, all values)."""
        it = self.it
        group = it.heads // it.kv_heads
        grouped = fused.view(it.kv_heads, group + 2, it.head_dim, -1)
        parts = grouped.split((group, 1, 1), dim=1)
        return torch.cat([part.reshape(-1, *fused.shape[1:]) for part in parts])

    def _mlp(self, prefix: str) -> MLP:
        it, names = self.it, self.names
        if it.gated and names.fused_gate_up:
            up = self._linear(prefix + names.fused_gate_up, it.hidden, 2 * it.intermediate, bias=it.mlp_bias)
        elif it.gated:
            sizes = {names.gate: it.intermediate, names.up: it.intermediate}
            up = self._stacked(prefix, sizes, it.hidden, bias=it.mlp_bias)
        else:
            up = self._linear(prefix + names.up, it.hidden, it.intermediate, bias=it.mlp_bias)
        down = self._linear(prefix + names.down, it.intermediate, it.hidden, bias=it.mlp_bias)
        return MLP(up, down, it.activation, gated=it.gated)

    def _moe(self, prefix: str, experts: Experts) -> MoE:
        it, names = self.it, self.names
        gate_up: list[Tensor] = []
        down: list[Tensor] = []
        for expert in range(experts.count):
            inner = f"{prefix}{names.expert.format(expert)}."
            sizes = {names.expert_gate: experts.intermediate, names.expert_up: experts.intermediate}
            gate_up.append(self._stacked(inner, sizes, it.hidden, bias=False).weight)
            down.append(
                self._linear(inner + names.expert_down, experts.intermediate, it.hidden, bias=False).weight
            )
        return MoE(
            self._linear(prefix + names.router, it.hidden, experts.count, bias=False),
            gate_up,
            down,
            per_token=experts.per_token,
            renormalise=experts.renormalise,
            activation=it.activation,
            shared=self._shared_expert(prefix, experts.shared_intermediate),
            shared_gate=self._linear(prefix + names.shared_expert_gate, it.hidden, 1, bias=False)
            if experts.shared_intermediate
            else None,
        )

    def _shared_expert(self, prefix: str, width: int) -> MLP | None:
        it, names = self.it, self.names
        if not width:
            return None
        inner = f"{prefix}{names.shared_expert}."
        sizes = {names.expert_gate: width, names.expert_up: width}
        up = self._stacked(inner, sizes, it.hidden, bias=False)
        return MLP(
            up,
            self._linear(inner + names.expert_down, width, it.hidden, bias=False),
            it.activation,
            gated=True,
        )

    def _stacked(self, prefix: str, sizes: dict[str, int], inputs: int, *, bias: bool) -> Linear:
        """Several matrices over the same input as one, in the order given."""
        take = self.weights.take
        weight = torch.cat([take(f"{prefix}{name}.weight", size, inputs) for name, size in sizes.items()])
        biases = [take(f"{prefix}{name}.bias", size) for name, size in sizes.items()] if bias else None
        return Linear(weight, torch.cat(biases) if biases else None, pack=self.pack)

    def _linear(self, name: str, inputs: int, outputs: int, *, bias: bool) -> Linear:
        weight = self.weights.take(f"{name}.weight", outputs, inputs)
        return Linear(weight, self.weights.take(f"{name}.bias", outputs) if bias else None, pack=self.pack)

    def _norm(self, name: str) -> Norm:
        it = self.it
        weight = self.weights.take(f"{name}.weight", it.hidden)
        bias = self.weights.take(f"{name}.bias", it.hidden) if it.norm_bias else None
        return Norm(weight, bias, it.norm_eps, rms=it.norm == "rms")

    def _head_norm(self, name: str) -> Norm:
        return Norm(self.weights.take(f"{name}.weight", self.it.head_dim), None, self.it.norm_eps, rms=True)
