"""What benchmarks/kernels.py measures besides products, attention and logits: work on single tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernel_case import Case, Inputs, Sizes, normal
from mii_kernels.batch import RaggedBatch


def token_cases(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    return [case for tokens in sizes.tokens for case in _of_tokens(tokens, sizes, dtype)]


def _of_tokens(tokens: int, sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    gated = [_gated_activation(tokens, sizes.intermediate, dtype)] if sizes.gated else []
    rest = [_activation(tokens, sizes.intermediate, dtype), _rope(tokens, sizes, dtype)]
    gate = [_moe_gate(tokens, sizes.experts)] if sizes.experts else []
    return _norms(tokens, sizes.hidden, dtype) + gated + rest + gate


def _norms(tokens: int, n: int, dtype: torch.dtype) -> list[Case]:
    size = dtype.itemsize
    return [
        Case(
            "rms_norm",
            f"{tokens}x{n} with residual",
            lambda device: (*normal(device, dtype, (tokens, n), (tokens, n)), *normal(device, dtype, (n,))),
            lambda ops, x, residual, weight: ops.rms_norm(x, weight, 1e-5, residual)[0],
            lambda x, residual, weight: (
                F.rms_norm((x + residual).double(), (n,), None, 1e-5) * weight.double()
            ),
            size * (4 * tokens * n + n),
        ),
        Case(
            "layer_norm",
            f"{tokens}x{n} with residual",
            lambda device: (
                *normal(device, dtype, (tokens, n), (tokens, n)),
                *normal(device, dtype, (n,), (n,)),
            ),
            lambda ops, x, residual, weight, bias: ops.layer_norm(x, weight, bias, 1e-5, residual)[0],
            lambda x, residual, weight, bias: F.layer_norm(
                (x + residual).double(), (n,), weight.double(), bias.double(), 1e-5
            ),
            size * (4 * tokens * n + 2 * n),
        ),
    ]


def _gated_activation(tokens: int, wide: int, dtype: torch.dtype) -> Case:
    return Case(
        "activate_and_mul",
        f"{tokens}x{2 * wide} silu",
        lambda device: normal(device, dtype, (tokens, 2 * wide)),
        lambda ops, x: ops.activate_and_mul(x, "silu"),
        lambda x: F.silu(x[:, :wide].double()) * x[:, wide:].double(),
        dtype.itemsize * 3 * tokens * wide,
    )


def _activation(tokens: int, wide: int, dtype: torch.dtype) -> Case:
    return Case(
        "activate",
        f"{tokens}x{wide} gelu_tanh",
        lambda device: normal(device, dtype, (tokens, wide)),
        lambda ops, x: ops.activate(x, "gelu_tanh"),
        lambda x: F.gelu(x.double(), approximate="tanh"),
        dtype.itemsize * 2 * tokens * wide,
    )


def _moe_gate(tokens: int, experts: int) -> Case:
    return Case(
        "moe_gate",
        f"{tokens}x{experts} 2 of them",
        lambda device: normal(device, torch.float32, (tokens, experts)),
        lambda ops, logits: ops.moe_gate(logits, 2, True)[0],
        lambda logits: F.normalize(logits.double().softmax(-1).topk(2).values, p=1, dim=-1),
        tokens * (4 * experts + 2 * (4 + 8)),
    )


def _rope(tokens: int, sizes: Sizes, dtype: torch.dtype) -> Case:
    heads, kv_heads, dim = sizes.heads, sizes.kv_heads, sizes.head_dim
    rotary = int(dim * sizes.rotary)

    def make(device: torch.device) -> Inputs:
        angles = torch.rand(tokens, rotary // 2, device=device) * 6
        table = torch.cat((angles.cos(), angles.sin()), -1)
        blocks = -(-tokens // 64)
        caches = normal(device, dtype, (blocks, kv_heads, 64, dim), (blocks, kv_heads, 64, dim))
        qkv = normal(device, dtype, (tokens, heads + 2 * kv_heads, dim))
        return (*qkv, table, _one_sequence(tokens, device), *caches)

    def run(ops: Any, qkv: Tensor, table: Tensor, batch: RaggedBatch, *caches: Tensor) -> Tensor:
        query: Tensor = ops.rope_and_store_kv(qkv, table, batch, *caches, heads, False)
        return query

    def exact(qkv: Tensor, table: Tensor, *_: Any) -> Tensor:
        cos, sin = table.double().unsqueeze(1).chunk(2, -1)
        query = qkv[:, :heads].double()
        x, y = query[..., :rotary].chunk(2, -1)
        return torch.cat((x * cos - y * sin, y * cos + x * sin, query[..., rotary:]), -1)

    moved = tokens * (2 * (heads + 2 * kv_heads) * dim * dtype.itemsize + 4 * rotary)
    shape = f"{tokens}x({heads}+2*{kv_heads})x{dim}" + (f", {rotary} rotated" if rotary < dim else "")
    return Case("rope_and_store_kv", shape, make, run, exact, moved)


def _one_sequence(tokens: int, device: torch.device) -> RaggedBatch:
    places = torch.arange(tokens, dtype=torch.int32, device=device)
    blocks = -(-tokens // 64)
    return RaggedBatch(
        positions=places,
        slot_mapping=places,
        cu_seqlens=torch.tensor([0, tokens], dtype=torch.int32, device=device),
        context_lens=torch.tensor([tokens], dtype=torch.int32, device=device),
        block_tables=torch.arange(blocks, dtype=torch.int32, device=device)[None],
        query_lens=[tokens],
        context_lens_host=[tokens],
        num_decodes=0,
    )
