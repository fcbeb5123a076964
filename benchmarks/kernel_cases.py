"""What benchmarks/kernels.py measures: operations on inputs of a real model's size, with the exact results.

A case makes fresh inputs, runs an operation of a backend (`mii_kernels.reference`, or one over the CUDA
library) on them, and knows in float64 what should come out and how many bytes must at least be moved: every
input read once, every output written once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mii_kernels import reference
from mii_kernels.batch import RaggedBatch

Inputs = tuple[Any, ...]
BIASES = 16  # of a row
SEEN_TOKENS = 500  # of a row's prompt, and as many of its output


@dataclass(frozen=True)
class Case:
    op: str
    shape: str
    make: Callable[[torch.device], Inputs]
    run: Callable[..., Tensor]  # (backend, *inputs) -> what is compared
    exact: Callable[..., Tensor]  # (*inputs) -> float64; for tokens and counts: the reference's
    moved: int  # bytes
    flops: int = 0  # of the tensor cores' operations
    reference_waits: bool = False  # for the device: the reference cannot be captured in a graph


@dataclass(frozen=True)
class Sizes:
    """Of Mistral-7B, unless said otherwise; `vocab` is Llama 3's."""

    tokens: tuple[int, ...] = (64, 8192)
    rows: int = 256  # to sample
    hidden: int = 4096
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    rotary: float = 1.0  # share of a head that is rotated
    intermediate: int = 14336
    gated: bool = True  # the MLP
    vocab: int = 128256
    experts: int = 8  # 0: none


def sizes_of(config: dict[str, Any]) -> Sizes:
    """Of one of shapes.py's models, by its config.json."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return Sizes(
        hidden=hidden,
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head_dim=hidden // heads,
        rotary=config.get("partial_rotary_factor", 1.0),
        intermediate=config["intermediate_size"],
        gated=config["hidden_act"] == "silu",
        vocab=config["vocab_size"],
        experts=config.get("num_local_experts", 0),
    )


def layer_weights(sizes: Sizes) -> tuple[tuple[int, int], ...]:
    """[out, in] of the four weights of a decoder layer: qkv, output, up (with the gate, if any), down."""
    hidden, inner = sizes.hidden, sizes.heads * sizes.head_dim
    qkv, up = inner + 2 * sizes.kv_heads * sizes.head_dim, (1 + sizes.gated) * sizes.intermediate
    return (qkv, hidden), (hidden, inner), (up, hidden), (hidden, sizes.intermediate)


def cases(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    found = [case for tokens in sizes.tokens for case in _of_tokens(tokens, sizes, dtype)]
    return found + _of_rows(sizes, dtype) + _of_logits(sizes, dtype)


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
            lambda device: (*_normal(device, dtype, (tokens, n), (tokens, n)), *_normal(device, dtype, (n,))),
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
                *_normal(device, dtype, (tokens, n), (tokens, n)),
                *_normal(device, dtype, (n,), (n,)),
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
        lambda device: _normal(device, dtype, (tokens, 2 * wide)),
        lambda ops, x: ops.activate_and_mul(x, "silu"),
        lambda x: F.silu(x[:, :wide].double()) * x[:, wide:].double(),
        dtype.itemsize * 3 * tokens * wide,
    )


def _activation(tokens: int, wide: int, dtype: torch.dtype) -> Case:
    return Case(
        "activate",
        f"{tokens}x{wide} gelu_tanh",
        lambda device: _normal(device, dtype, (tokens, wide)),
        lambda ops, x: ops.activate(x, "gelu_tanh"),
        lambda x: F.gelu(x.double(), approximate="tanh"),
        dtype.itemsize * 2 * tokens * wide,
    )


def _moe_gate(tokens: int, experts: int) -> Case:
    return Case(
        "moe_gate",
        f"{tokens}x{experts} 2 of them",
        lambda device: _normal(device, torch.float32, (tokens, experts)),
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
        caches = _normal(device, dtype, (blocks, kv_heads, 64, dim), (blocks, kv_heads, 64, dim))
        qkv = _normal(device, dtype, (tokens, heads + 2 * kv_heads, dim))
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


def _of_rows(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    rows, vocab = sizes.rows, sizes.vocab
    moved = rows * vocab * dtype.itemsize
    greedy = Case(
        "greedy",
        f"{rows}x{vocab}",
        lambda device: _normal(device, dtype, (rows, vocab)),
        lambda ops, logits: ops.greedy(logits),
        lambda logits: reference.greedy(logits),
        moved,
    )

    def sample(name: str, spread: float, top_k: int, top_p: float) -> Case:
        """Logits from N(0, spread^2); 0 and 1 are no filter."""

        def make(device: torch.device) -> Inputs:
            ones, ids = torch.ones(rows, device=device), torch.arange(rows, device=device)
            filters = (ones.int() * top_k if top_k else None, ones * top_p if top_p < 1 else None, None)
            return (_normal(device, dtype, (rows, vocab))[0] * spread, ones, *filters, ids, ids)

        def run(ops: Any, *inputs: Any) -> Tensor:
            token_ids: Tensor = ops.sample(*inputs)
            return token_ids

        shape = f"{rows}x{vocab} of spread {spread:g}, {name}"
        return Case("sample", shape, make, run, lambda *inputs: reference.sample(*inputs), moved)

    def log_probs(num_top: int) -> Case:
        """Of the token and of the likeliest."""
        return Case(
            "log_probs",
            f"{rows}x{vocab}, {num_top} likeliest",
            lambda device: (
                _normal(device, dtype, (rows, vocab))[0] * 4,
                torch.arange(rows, device=device),
            ),
            lambda ops, logits, ids: ops.log_probs(logits, ids, num_top)[0],
            lambda logits, ids: logits.double().log_softmax(-1).gather(1, ids[:, None]).squeeze(1),
            moved,
        )

    return [
        greedy,
        log_probs(0),
        log_probs(5),
        sample("no filter", 1, 0, 1.0),
        sample("top-p 0.9", 1, 0, 0.9),  # three fifths of the vocabulary survive
        sample("top-p 0.9", 4, 0, 0.9),  # some hundred tokens do, as in a text
        sample("top-k 50, top-p 0.9", 4, 50, 0.9),
    ]


def _of_logits(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    """What happens to logits before a token is drawn, and to the counts after it, in every row."""
    rows, vocab = sizes.rows, sizes.vocab
    return [_bias(rows, vocab, dtype), _penalties(rows, vocab, dtype), _counts(rows, vocab)]


def _bias(rows: int, vocab: int, dtype: torch.dtype) -> Case:
    def make(device: torch.device) -> Inputs:
        ids = torch.randint(vocab, (rows, BIASES), device=device)
        values = torch.randn(rows, BIASES, device=device)
        return *_normal(device, dtype, (rows, vocab)), torch.arange(rows, device=device), ids, values

    return Case(
        "add_bias",
        f"{rows}x{vocab}, {BIASES} a row",
        make,
        lambda ops, *inputs: ops.add_bias(*inputs),
        lambda logits, _, ids, values: logits.double().scatter_add_(1, ids, values.double()),
        rows * (vocab * (dtype.itemsize + 4) + BIASES * (8 + 4) + 8),
    )


def _penalties(rows: int, vocab: int, dtype: torch.dtype) -> Case:
    def make(device: torch.device) -> Inputs:
        prompt, output = torch.randint(vocab, (2, rows, SEEN_TOKENS), device=device)
        in_prompt = torch.zeros(rows, vocab, dtype=torch.bool, device=device).scatter_(1, prompt, True)
        counts = torch.zeros(rows, vocab, dtype=torch.int32, device=device)
        counts.scatter_add_(1, output, torch.ones_like(output, dtype=torch.int32))
        numbers = torch.arange(rows, device=device)
        penalties = (torch.full((rows,), value, device=device) for value in (1.1, 0.5, 0.25))
        return *_normal(device, dtype, (rows, vocab)), numbers, numbers, counts, in_prompt, *penalties

    def exact(
        logits: Tensor, _: Tensor, __: Tensor, counts: Tensor, in_prompt: Tensor, *penalties: Tensor
    ) -> Tensor:
        repetition, presence, frequency = (x.double()[:, None] for x in penalties)
        x, written = logits.double(), counts > 0
        x = torch.where(in_prompt | written, torch.where(x > 0, x / repetition, x * repetition), x)
        return x - frequency * counts - presence * written

    moved = rows * (vocab * (dtype.itemsize + 4 + 4 + 1) + 2 * 8 + 3 * 4)
    shape = f"{rows}x{vocab}, {2 * SEEN_TOKENS} seen"
    return Case(
        "apply_penalties", shape, make, lambda ops, *inputs: ops.apply_penalties(*inputs), exact, moved
    )


def _counts(rows: int, vocab: int) -> Case:
    """A row's token is the row's number, so that the diagonal is what has been counted."""

    def make(device: torch.device) -> Inputs:
        numbers = torch.arange(rows, device=device)
        return torch.zeros(rows, vocab, dtype=torch.int32, device=device), numbers, numbers

    def run(ops: Any, counts: Tensor, slots: Tensor, ids: Tensor) -> Tensor:
        ops.count_tokens(counts, slots, ids)
        return counts.diagonal()

    moved = rows * (2 * 4 + 2 * 8)
    return Case("count_tokens", f"{rows}x{vocab}", make, run, lambda counts, *_: counts.diagonal() + 1, moved)


def _normal(device: torch.device, dtype: torch.dtype, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape, device=device).to(dtype) for shape in shapes)


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
