"""The operations in torch: the truth that kernels are tested against, and the CPU's path."""

from mii_kernels.reference.activations import activate, activate_and_mul, gated_linear
from mii_kernels.reference.attention import paged_attention
from mii_kernels.reference.linear import can_pack, linear, linear_onto, pack
from mii_kernels.reference.moe import moe_experts, moe_gate
from mii_kernels.reference.norms import layer_norm, rms_norm
from mii_kernels.reference.quantised import pack_quantised, quantise, quantise_weight, quantised_linear
from mii_kernels.reference.rotary import rope_and_store_kv
from mii_kernels.reference.sampling import (
    add_bias,
    apply_penalties,
    count_tokens,
    greedy,
    log_probs,
    sample,
)

__all__ = [
    "activate",
    "activate_and_mul",
    "add_bias",
    "apply_penalties",
    "can_pack",
    "count_tokens",
    "gated_linear",
    "greedy",
    "layer_norm",
    "linear",
    "linear_onto",
    "log_probs",
    "moe_experts",
    "moe_gate",
    "pack",
    "pack_quantised",
    "paged_attention",
    "quantise",
    "quantise_weight",
    "quantised_linear",
    "rms_norm",
    "rope_and_store_kv",
    "sample",
]
