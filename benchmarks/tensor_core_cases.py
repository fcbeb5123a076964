"""What benchmarks/kernels.py measures on tensor cores: attention, products with few rows, experts."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernel_cases import Case, Inputs, Sizes
from mii_kernels.batch import RaggedBatch

BLOCK_SIZE = 64
DECODES = ((1, 2600), (8, 2600), (64, 2600), (128, 1200))  # sequences, context of each
PROMPTS = ((1, 2600), (1, 8192), (4, 2048), (16, 512))  # sequences, tokens of each
FEW_TOKENS = (1, 16, 64)
MANY_TOKENS = (256, 1024, 2600, 8192)
EXPERT_TOKENS = (1, 16, 256, 8192)
EXPERT_RANKS = (2, 1)  # GPUs that share each of Mixtral-8x7B's experts
PER_TOKEN = 2


def tensor_core_cases(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    decodes = [_attention(num, 1, context, sizes, dtype) for num, context in DECODES]
    prompts = [_attention(num, length, length, sizes, dtype) for num, length in PROMPTS]
    experts = [_experts(num, ranks, sizes, dtype) for ranks in EXPERT_RANKS for num in EXPERT_TOKENS]
    gated = [_gated(num, sizes, dtype) for num in MANY_TOKENS]
    return decodes + prompts + _linears(sizes, dtype) + gated + experts


def _linears(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    """The four weights of a decoder layer."""
    hidden, wide = sizes.hidden, sizes.intermediate
    qkv = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    weights = ((qkv, hidden), (hidden, sizes.heads * sizes.head_dim), (2 * wide, hidden), (hidden, wide))
    return [_linear(tokens, n, k, dtype) for n, k in weights for tokens in FEW_TOKENS]


def _attention(num: int, length: int, context: int, sizes: Sizes, dtype: torch.dtype) -> Case:
    heads, kv_heads, dim = sizes.heads, sizes.kv_heads, sizes.head_dim
    blocks = num * -(-context // BLOCK_SIZE)

    def make(device: torch.device) -> Inputs:
        caches = [torch.randn(blocks, kv_heads, BLOCK_SIZE, dim, device=device).to(dtype) for _ in range(2)]
        query = torch.randn(num * length, heads, dim, device=device).to(dtype)
        return query, *caches, _batch(num, length, context, device)

    def run(ops: Any, *inputs: Any) -> Tensor:
        out: Tensor = ops.paged_attention(*inputs, dim**-0.5, None)
        return out

    seen = num * length * context - num * length * (length - 1) // 2  # positions that a head looks at
    moved = num * dim * dtype.itemsize * (2 * heads * length + 2 * kv_heads * context)
    kind = "decode" if length == 1 else "prefill"
    shape = f"{kind} {num}x{context} {heads}/{kv_heads}x{dim}"
    return Case("paged_attention", shape, make, run, _exact_attention, moved, flops=4 * heads * dim * seen)


def _batch(num: int, length: int, context: int, device: torch.device) -> RaggedBatch:
    """Equal sequences, the blocks of all of them shuffled."""
    width = -(-context // BLOCK_SIZE)
    tables = torch.randperm(num * width, device=device).int().view(num, width)
    places = torch.arange(context - length, context, dtype=torch.int32, device=device)
    slots = tables[:, (places // BLOCK_SIZE).long()] * BLOCK_SIZE + places % BLOCK_SIZE
    return RaggedBatch(
        positions=places.repeat(num),
        slot_mapping=slots.flatten(),
        cu_seqlens=torch.arange(num + 1, dtype=torch.int32, device=device) * length,
        context_lens=torch.full((num,), context, dtype=torch.int32, device=device),
        block_tables=tables,
        query_lens=[length] * num,
        context_lens_host=[context] * num,
        num_decodes=num if length == 1 else 0,
    )


def _exact_attention(query: Tensor, k_cache: Tensor, v_cache: Tensor, batch: RaggedBatch) -> Tensor:
    """A sequence and a KV head at a time: the scores of a long prompt are many."""
    out = torch.empty_like(query, dtype=torch.float64)
    kv_heads, dim = k_cache.shape[1], k_cache.shape[3]
    group = query.shape[1] // kv_heads
    start = 0
    for index, length in enumerate(batch.query_lens):
        context, table = batch.context_lens_host[index], batch.block_tables[index].long()
        places = torch.arange(context, device=query.device)
        unseen = places > places[context - length :, None]
        for head in range(query.shape[1]):
            keys, values = (
                x[table, head // group].reshape(-1, dim)[:context].double() for x in (k_cache, v_cache)
            )
            scores = query[start : start + length, head].double() @ keys.T * dim**-0.5
            weights = scores.masked_fill_(unseen, float("-inf")).softmax(-1)
            out[start : start + length, head] = weights @ values
        start += length
    return out


def _linear(tokens: int, n: int, k: int, dtype: torch.dtype) -> Case:
    def make(device: torch.device) -> Inputs:
        x, weight = (torch.randn(rows, k, device=device).to(dtype) for rows in (tokens, n))
        return x, weight, None

    def run(ops: Any, *inputs: Any) -> Tensor:
        out: Tensor = ops.linear(*inputs)
        return out

    moved = dtype.itemsize * (n * k + tokens * (n + k))
    return Case(
        "linear",
        f"{tokens}x{k} by {n}x{k}",
        make,
        run,
        lambda x, weight, _: x.double() @ weight.double().T,
        moved,
        flops=2 * tokens * n * k,
    )


def _gated(tokens: int, sizes: Sizes, dtype: torch.dtype) -> Case:
    n, k = sizes.intermediate, sizes.hidden

    def make(device: torch.device) -> Inputs:
        x, weight = (torch.randn(rows, k, device=device).to(dtype) for rows in (tokens, 2 * n))
        return x, weight.mul_(k**-0.5), None, "silu"

    def run(ops: Any, *inputs: Any) -> Tensor:
        out: Tensor = ops.gated_linear(*inputs)
        return out

    def exact(x: Tensor, weight: Tensor, _: None, __: str) -> Tensor:
        gate, up = (x.double() @ weight.double().T).chunk(2, -1)
        return F.silu(gate).mul_(up)

    moved = dtype.itemsize * (2 * n * k + tokens * (n + k))
    shape = f"{tokens}x{k} by 2x{n}x{k}"
    return Case("gated_linear", shape, make, run, exact, moved, flops=4 * tokens * n * k)


def _experts(tokens: int, ranks: int, sizes: Sizes, dtype: torch.dtype) -> Case:
    """Tokens choose evenly. Few leave experts without any, whose weights need not be read."""
    count, n, wide = sizes.experts, sizes.hidden, sizes.intermediate // ranks

    def make(device: torch.device) -> Inputs:
        x = torch.randn(tokens, n, device=device).to(dtype)
        weights, experts = torch.rand(tokens, count, device=device).topk(PER_TOKEN)
        shapes = ((count, 2 * wide, n), (count, n, wide))
        filled = [torch.empty(shape, dtype=dtype, device=device).normal_() for shape in shapes]
        return x, weights, experts, *(each.mul_(each.shape[2] ** -0.5) for each in filled), "silu"

    def run(ops: Any, *inputs: Any) -> Tensor:
        out: Tensor = ops.moe_experts(*inputs)
        return out

    rows, busy = tokens * PER_TOKEN, min(count, tokens * PER_TOKEN)
    moved = dtype.itemsize * (busy * 3 * n * wide + 2 * tokens * n)
    flops = 2 * rows * 3 * n * wide
    shape = f"{tokens}x{n} by {PER_TOKEN} of {count} experts {wide}"
    return Case("moe_experts", shape, make, run, _exact_experts, moved, flops, reference_waits=True)


def _exact_experts(
    x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor, _: str
) -> Tensor:
    out = torch.zeros_like(x, dtype=torch.float64)
    for expert, (first, second) in enumerate(zip(gate_up, down, strict=True)):
        token, choice = (experts == expert).nonzero(as_tuple=True)
        gate, up = (x[token].double() @ first.double().T).chunk(2, -1)
        said = (F.silu(gate) * up) @ second.double().T
        out.index_add_(0, token, said * weights[token, choice, None])
    return out
