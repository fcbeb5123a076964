"""What benchmarks/kernels.py measures on tensor cores: attention, products with few rows, experts."""

from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernel_case import Case, Inputs, Sizes, layer_weights
from mii_kernels.batch import RaggedBatch

BLOCK_SIZE = 64
DECODES = ((1, 2600), (8, 2600), (64, 2600), (128, 1200))  # sequences, context of each
PROMPTS = ((1, 2600), (1, 8192), (4, 2048), (16, 512))  # sequences, tokens of each
MIXED = ((16, 3, 2600), (64, 3, 2600), (192, 3, 2600))  # decodes, prompts, context of each
FEW_TOKENS = (1, 16, 64)
MANY_TOKENS = (256, 1024, 2600, 8192)
EXPERT_TOKENS = (1, 16, 256, 8192)
EXPERT_RANKS = (2, 1)  # GPUs that share each of Mixtral-8x7B's experts
PER_TOKEN = 2


def tensor_core_cases(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    decodes = [_attention(f"decode {num}x{n}", [(1, n)] * num, sizes, dtype) for num, n in DECODES]
    prompts = [_attention(f"prefill {num}x{n}", [(n, n)] * num, sizes, dtype) for num, n in PROMPTS]
    mixed = [_mixed(*shape, sizes, dtype) for shape in MIXED]
    linears = [_linear(num, n, k, dtype) for n, k in layer_weights(sizes) for num in FEW_TOKENS]
    gated = [_gated(num, sizes, dtype) for num in MANY_TOKENS if sizes.gated]
    inputs = (sizes.heads * sizes.head_dim, sizes.intermediate)
    added = [_added(num, sizes.hidden, k, dtype) for k in inputs for num in MANY_TOKENS]
    ranks = EXPERT_RANKS if sizes.experts else ()
    experts = [_experts(num, shared, sizes, dtype) for shared in ranks for num in EXPERT_TOKENS]
    return decodes + prompts + mixed + linears + gated + added + experts


def _mixed(decodes: int, prompts: int, context: int, sizes: Sizes, dtype: torch.dtype) -> Case:
    name = f"mixed {decodes}x{context}, {prompts}x{context}"
    return _attention(name, [(1, context)] * decodes + [(context, context)] * prompts, sizes, dtype)


def _attention(name: str, lengths: list[tuple[int, int]], sizes: Sizes, dtype: torch.dtype) -> Case:
    """lengths: of each sequence's queries and context, decodes first."""
    heads, kv_heads, dim = sizes.heads, sizes.kv_heads, sizes.head_dim
    tokens, contexts = (sum(column) for column in zip(*lengths, strict=True))
    blocks = sum(-(-context // BLOCK_SIZE) for _, context in lengths)

    def make(device: torch.device) -> Inputs:
        caches = [torch.randn(blocks, kv_heads, BLOCK_SIZE, dim, device=device).to(dtype) for _ in range(2)]
        query = torch.randn(tokens, heads, dim, device=device).to(dtype)
        return query, *caches, _batch(lengths, device)

    def run(ops: Any, *inputs: Any) -> Tensor:
        out: Tensor = ops.paged_attention(*inputs, dim**-0.5, None)
        return out

    # Positions that a head looks at.
    seen = sum(length * context - length * (length - 1) // 2 for length, context in lengths)
    moved = dim * dtype.itemsize * (2 * heads * tokens + 2 * kv_heads * contexts)
    shape = f"{name} {heads}/{kv_heads}x{dim}"
    return Case("paged_attention", shape, make, run, _exact_attention, moved, flops=4 * heads * dim * seen)


def _batch(lengths: list[tuple[int, int]], device: torch.device) -> RaggedBatch:
    """The blocks of all sequences shuffled."""
    counts = [-(-context // BLOCK_SIZE) for _, context in lengths]
    shuffled = torch.randperm(sum(counts), dtype=torch.int32, device=device).split(counts)
    tables = torch.nn.utils.rnn.pad_sequence(list(shuffled), batch_first=True)
    places = [
        torch.arange(context - length, context, dtype=torch.int32, device=device)
        for length, context in lengths
    ]
    slots = [
        table[(place // BLOCK_SIZE).long()] * BLOCK_SIZE + place % BLOCK_SIZE
        for table, place in zip(tables, places, strict=True)
    ]
    query_lens, contexts = map(list, zip(*lengths, strict=True))
    return RaggedBatch(
        positions=torch.cat(places),
        slot_mapping=torch.cat(slots),
        cu_seqlens=torch.tensor([0, *accumulate(query_lens)], dtype=torch.int32, device=device),
        context_lens=torch.tensor(contexts, dtype=torch.int32, device=device),
        block_tables=tables,
        query_lens=query_lens,
        context_lens_host=contexts,
        num_decodes=query_lens.count(1),
    )


def _exact_attention(query: Tensor, k_cache: Tensor, v_cache: Tensor, batch: RaggedBatch) -> Tensor:
    """A sequence and a KV head at a time: the scores of a long prompt are many."""
    out = torch.empty_like(query, dtype=torch.float64)
    kv_heads, dim = k_cache.shape[1], k_cache.shape[3]
    group = query.shape[1] // kv_heads
    start = 0
    for index, length in enumerate(batch.query_lens):
        context = batch.context_lens_host[index]
        table = batch.block_tables[index, : -(-context // BLOCK_SIZE)].long()
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


def _added(tokens: int, n: int, k: int, dtype: torch.dtype) -> Case:
    """Timed again and again on the same sums, which grow."""

    def make(device: torch.device) -> Inputs:
        x, weight, onto = (
            torch.randn(*shape, device=device).to(dtype) for shape in ((tokens, k), (n, k), (tokens, n))
        )
        return x, weight.mul_(k**-0.5), None, onto

    def run(ops: Any, *inputs: Any) -> Tensor:
        out: Tensor
        out, onto = ops.linear_onto(*inputs)
        return out if onto is None else out + onto

    moved = dtype.itemsize * (n * k + tokens * (2 * n + k))
    return Case(
        "linear_onto",
        f"{tokens}x{k} by {n}x{k}",
        make,
        run,
        lambda x, weight, _, onto: x.double() @ weight.double().T + onto.double(),
        moved,
        flops=2 * tokens * n * k,
    )


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
