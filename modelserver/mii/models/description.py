"""What distinguishes one decoder from another, as data: its shape, and its names in a checkpoint."""

from dataclasses import dataclass, field
from typing import Literal

from mii.layers.rotary import Rotary


@dataclass(frozen=True, kw_only=True)
class Experts:
    count: int
    per_token: int
    intermediate: int  # width of one expert
    renormalise: bool  # the chosen experts' weights sum to one
    layers: frozenset[int]  # the layers that have experts; the others are dense
    shared_intermediate: int = 0  # width of the expert that every token takes; 0: none


@dataclass(frozen=True, kw_only=True)
class Description:
    """One decoder. Sizes in elements."""

    family: str
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    max_position: int  # context length the model was made for
    original_max_position: int  # the same before its rotary scaling
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    block: Literal["sequential", "parallel", "post_norm"] = "sequential"
    second_norm: bool = True  # a parallel block may feed attention and MLP from one norm
    final_norm: bool = True
    rotary: Rotary | None = None
    learned_position_offset: int | None = None  # None: no learned positions
    embedding_width: int | None = None  # if not hidden: projected in and out (OPT-350m)
    norm_bias: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False  # RMSNorm of every query and key head (Qwen3)
    activation: str = "silu"
    gated: bool = True
    experts: Experts | None = None
    windows: tuple[int | None, ...] = ()  # sliding window by layer; empty: none anywhere
    tied: bool = False  # the head is the embedding

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None


@dataclass(frozen=True, kw_only=True)
class Names:
    """Checkpoint names of one family, without ".weight" and ".bias". Names in a layer follow `layer`'s."""

    embed: str = "model.embed_tokens"
    positions: str = ""
    project_in: str = ""
    project_out: str = ""
    final_norm: str = "model.norm"
    head: str = "lm_head"
    layer: str = "model.layers.{}"
    first_norm: str = "input_layernorm"
    second_norm: str = "post_attention_layernorm"
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    fused_qkv: str = ""  # one matrix instead of the three above
    qkv_grouped: bool = False  # fused as (queries of a KV group, its key, its value) per group, not (q, k, v)
    out: str = "self_attn.o_proj"
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    fused_gate_up: str = ""  # one matrix instead of the two above
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    expert: str = "mlp.experts.{}"
    expert_gate: str = "gate_proj"
    expert_up: str = "up_proj"
    expert_down: str = "down_proj"
    shared_expert: str = "mlp.shared_expert"
    shared_expert_gate: str = "mlp.shared_expert_gate"
    ignore: tuple[str, ...] = field(default=(r".*rotary_emb\.inv_freq",))  # may be there, is not read
