"""The operations of the model, as the engine calls them.

Each function checks shapes, then runs the backend of its tensors' device; `use_kernels` chooses that of CUDA
tensors. Shapes are in brackets; results have the dtype of the input unless said otherwise. D is head_dim, H
query heads, K KV heads, and the KV cache of a layer is one tensor for K, one for V, [blocks, K, block_size,
D] each, so that the tile of one (block, head) is contiguous.
"""

from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import KernelError, Library
from mii_kernels.batch import RaggedBatch
from mii_kernels.choice import KERNELS, decodes_on_device, library, use_kernels
from mii_kernels.choice import backend as _backend
from mii_kernels.reference.activations import ACTIVATIONS
from mii_kernels.reference.moe import ExpertWeights

__all__ = [
    "KERNELS",
    "ExpertWeights",
    "KernelError",
    "Library",
    "RaggedBatch",
    "activate",
    "activate_and_mul",
    "add_bias",
    "apply_penalties",
    "count_tokens",
    "decodes_on_device",
    "gated_linear",
    "greedy",
    "layer_norm",
    "library",
    "linear",
    "linear_onto",
    "log_probs",
    "moe_experts",
    "moe_gate",
    "pack_quantised",
    "pack_weight",
    "paged_attention",
    "quantise",
    "quantise_weight",
    "quantised_linear",
    "rms_norm",
    "rope_and_store_kv",
    "sample",
    "use_kernels",
]


def pack_weight(weight: Tensor) -> Tensor:
    """Puts a [out, in] weight into the layout that `linear` is fastest with; the plain one still works."""
    return reference.pack(weight) if reference.can_pack(weight) else weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [tokens, in], weight [out, in] (plain or from `pack_weight`), bias [out] -> [tokens, out]."""
    _check(x.dim() == 2 and x.shape[1] == weight.shape[1], "linear", x=x, weight=weight)
    return _backend(x).linear(x, weight, bias)


def linear_onto(x: Tensor, weight: Tensor, bias: Tensor | None, onto: Tensor) -> tuple[Tensor, Tensor | None]:
    """x, weight, bias: of `linear`; onto [tokens, out] -> (linear(x, weight, bias), onto), two summands; or,
    where the product can add it on its way, (their sum, None), and then the sum is in `onto`'s place."""
    _check(x.dim() == 2 and x.shape[1] == weight.shape[1], "linear_onto", x=x, weight=weight)
    _check(onto.shape == (x.shape[0], weight.shape[0]), "linear_onto", onto=onto)
    return _backend(x).linear_onto(x, weight, bias, onto)


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [rows, n] -> values [rows, n] float8_e4m3fn, scales [rows] float32: x is about values * scales,
    and the largest magnitude of each row is 448 of its scale. `reference.quantised` says exactly how."""
    _check(x.dim() == 2 and x.shape[1] > 0, "quantise", x=x)
    return _backend(x).quantise(x)


def quantise_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`quantise` of a weight [out, in], once, without a wider copy of all of it."""
    _check(weight.dim() == 2 and weight.shape[1] > 0, "quantise_weight", weight=weight)
    return reference.quantise_weight(weight)


def pack_quantised(values: Tensor) -> Tensor:
    """Puts a weight's e4m3 values into the layout that `quantised_linear` is fastest with; the plain one
    works too."""
    return reference.pack_quantised(values)


def quantised_linear(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [tokens, in], quantised here, by a quantised weight [out, in] (plain or packed) with scales [out];
    bias [out] -> [tokens, out]."""
    fits = x.dim() == 2 and x.shape[1] == weight.shape[1] and scales.shape == weight.shape[:1]
    _check(fits, "quantised_linear", x=x, weight=weight, scales=scales)
    return _backend(x).quantised_linear(x, weight, scales, bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x, residual [..., n], weight [n] -> (norm(x + residual) * weight, x + residual)."""
    _check(weight.shape == x.shape[-1:], "rms_norm", x=x, weight=weight)
    return _backend(x).rms_norm(x, weight, eps, residual)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x, residual [..., n], weight, bias [n] -> (norm(x + residual) * weight + bias, x + residual)."""
    _check(weight.shape == x.shape[-1:], "layer_norm", x=x, weight=weight)
    return _backend(x).layer_norm(x, weight, bias, eps, residual)


def rope_and_store_kv(
    qkv: Tensor,
    cos_sin: Tensor | None,
    batch: RaggedBatch,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    num_heads: int,
    interleaved: bool = False,
) -> Tensor:
    """Rotates Q in place and writes the rotated K, and V, into the batch's slots; returns the view of Q. What
    then stands in K's part of qkv is undefined.

    qkv [tokens, H + 2 K, D]: query heads, key heads, value heads of each token.
    cos_sin [positions, rotary_dim] float32: cosines, then sines, of the rotary_dim / 2 angles of a position;
        rotary_dim <= D (the rest passes through); None where positions are not rotary.
    interleaved: pairs are (0, 1), (2, 3)… (GPT-J) instead of (0, half), (1, half + 1)… (NeoX, Llama).
    Returns Q [tokens, H, D].
    """
    _check(qkv.dim() == 3 and qkv.shape[1] == num_heads + 2 * k_cache.shape[1], "rope_and_store_kv", qkv=qkv)
    _check(
        k_cache.shape == v_cache.shape and k_cache.shape[3] == qkv.shape[2], "rope_and_store_kv", k=k_cache
    )
    return _backend(qkv).rope_and_store_kv(qkv, cos_sin, batch, k_cache, v_cache, num_heads, interleaved)


def paged_attention(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    batch: RaggedBatch,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Causal attention of each token to its own sequence's context, all of which is in the cache.

    query [tokens, H, D]; H is a multiple of K. window: a token sees itself and the window - 1 before it.
    Returns [tokens, H, D].
    """
    _check(query.dim() == 3 and query.shape[0] == batch.num_tokens, "paged_attention", query=query)
    _check(query.shape[1] % k_cache.shape[1] == 0, "paged_attention", query=query, k_cache=k_cache)
    return _backend(query).paged_attention(query, k_cache, v_cache, batch, scale, window)


def activate(x: Tensor, kind: str) -> Tensor:
    """Elementwise; kind is one of ACTIVATIONS: silu, gelu, gelu_tanh, relu."""
    _check(kind in ACTIVATIONS, f"activate {kind!r}", x=x)
    return _backend(x).activate(x, kind)


def activate_and_mul(gate_up: Tensor, kind: str) -> Tensor:
    """gate_up [tokens, 2 n] -> activate(first half) * second half, [tokens, n]."""
    _check(kind in ACTIVATIONS and gate_up.shape[-1] % 2 == 0, f"activate_and_mul {kind!r}", gate_up=gate_up)
    return _backend(gate_up).activate_and_mul(gate_up, kind)


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """`activate_and_mul` of `linear`: x [tokens, in], weight [2 n, in], bias [2 n] -> [tokens, n]. What is
    between the two need not be rounded to the dtype of x."""
    fits = kind in ACTIVATIONS and x.dim() == 2 and x.shape[1] == weight.shape[1] and weight.shape[0] % 2 == 0
    _check(fits, f"gated_linear {kind!r}", x=x, weight=weight)
    return _backend(x).gated_linear(x, weight, bias, kind)


def moe_gate(logits: Tensor, per_token: int, *, renormalise: bool) -> tuple[Tensor, Tensor]:
    """Router logits [tokens, experts] -> weights float32, experts int64, [tokens, per_token] each."""
    _check(0 < per_token <= logits.shape[-1], f"moe_gate per_token={per_token}", logits=logits)
    return _backend(logits).moe_gate(logits, per_token, renormalise)


def moe_experts(
    x: Tensor, weights: Tensor, experts: Tensor, gate_up: ExpertWeights, down: ExpertWeights, kind: str
) -> Tensor:
    """Each token through its gated experts, weighted and summed.

    x [tokens, n]; weights, experts [tokens, per_token] from `moe_gate`; gate_up [experts, 2 m, n] and down
    [experts, n, m], contiguous, or lists of each expert's [2 m, n] and [n, m] from `pack_weight`. Returns
    [tokens, n].
    """
    _check(weights.shape == experts.shape and len(gate_up) == len(down), "moe_experts", weights=weights)
    return _backend(x).moe_experts(x, weights, experts, gate_up, down, kind)


def greedy(logits: Tensor) -> Tensor:
    """logits [n, vocab] -> [n] int64: the likeliest token, the lowest id among equals."""
    _check(_is_table(logits), "greedy", logits=logits)
    return _backend(logits).greedy(logits)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    """One token for each row of logits [n, vocab] -> [n] int64; `reference.sampling` says exactly which.

    temperature [n] float32, 0 is greedy; top_k [n] int32, 0 is off; top_p [n] float32, 1 is off; min_p [n]
    float32, 0 is off; a filter that is None is off for all; seeds [n] int64; positions [n] integer, the
    place that the token will take in its sequence.
    """
    rows = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seeds": seeds,
        "positions": positions,
    }
    given = {name: x for name, x in rows.items() if x is not None}
    fits = _is_table(logits) and all(x.shape == logits.shape[:1] for x in given.values())
    _check(fits, "sample", logits=logits, **given)
    return _backend(logits).sample(logits, temperature, top_k, top_p, min_p, seeds, positions)


def add_bias(logits: Tensor, rows: Tensor, token_ids: Tensor, values: Tensor) -> Tensor:
    """logits [n, vocab], with values [m, b] float32 added at token_ids [m, b] int64 of rows [m] int64, as
    float32. A token id that a row has twice gets both values."""
    fits = _is_table(logits) and token_ids.dim() == 2
    fits = fits and token_ids.shape == values.shape and rows.shape == token_ids.shape[:1]
    _check(fits, "add_bias", logits=logits, rows=rows, token_ids=token_ids, values=values)
    return _backend(logits).add_bias(logits, rows, token_ids, values)


def apply_penalties(
    logits: Tensor,
    rows: Tensor,
    slots: Tensor,
    counts: Tensor,
    in_prompt: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> Tensor:
    """logits [n, vocab] with the penalties of rows [m] int64, as float32.

    slots [m] int64 says where a row's tokens are counted: counts [slots, vocab] int32 of its output,
    in_prompt [slots, vocab] bool; repetition, presence, frequency [m] float32.
    """
    fits = _is_table(logits) and counts.shape == in_prompt.shape and counts.shape[1:] == logits.shape[1:]
    fits = fits and all(x.shape == rows.shape for x in (slots, repetition, presence, frequency))
    _check(fits, "apply_penalties", logits=logits, rows=rows, slots=slots, counts=counts, in_prompt=in_prompt)
    return _backend(logits).apply_penalties(
        logits, rows, slots, counts, in_prompt, repetition, presence, frequency
    )


def count_tokens(counts: Tensor, slots: Tensor, token_ids: Tensor) -> None:
    """Adds one to counts [slots, vocab] int32 at each (slots, token_ids), [m] int64 both, in place."""
    fits = _is_table(counts) and slots.dim() == 1 and slots.shape == token_ids.shape
    _check(fits, "count_tokens", counts=counts, slots=slots, token_ids=token_ids)
    _backend(counts).count_tokens(counts, slots, token_ids)


def log_probs(logits: Tensor, token_ids: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities under softmax(logits [n, vocab]): of token_ids [n] int64, [n] float32; then of the
    num_top likeliest, best first: their ids [n, num_top] int64 and values [n, num_top] float32."""
    fits = _is_table(logits) and token_ids.shape == logits.shape[:1] and 0 <= num_top <= logits.shape[1]
    _check(fits, f"log_probs num_top={num_top}", logits=logits, token_ids=token_ids)
    return _backend(logits).log_probs(logits, token_ids, num_top)


def _is_table(x: Tensor) -> bool:
    return x.dim() == 2 and x.shape[1] > 0


def _check(condition: bool, op: str, **tensors: Tensor) -> None:
    if not condition:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{op}: shapes do not fit: {shapes}")
