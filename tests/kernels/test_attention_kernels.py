"""The attention kernels against float64, on random ragged batches."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import KernelError
from mii_kernels.cuda import attention
from mii_kernels.cuda.attention import HEAD_DIMS
from mii_kernels.cuda.attention_plan import SPLIT_TILES

from .conftest import BLOCK_SIZE, Kernels, Paged

DTYPES = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.bfloat16: 5e-3, torch.float16: 7e-4}  # of the norm of the difference
DECODES = [(1, 1), (1, 63), (1, 64), (1, 65), (1, 200)]
CHUNKS = [(3, 3), (1, 40), (64, 64), (65, 130), (7, 200), (130, 257)]


both_prefills = pytest.mark.usefixtures("prefill")


@pytest.fixture(params=["chosen", "mma"])
def prefill(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt chunks by the kernel that is chosen for them, and by the one that serves all."""
    if request.param == "mma":
        monkeypatch.setattr(attention, "prefill_launcher", lambda *_: "mii_attention_prefill")


def expected(it: Paged, query: Tensor, scale: float, window: int | None) -> Tensor:
    """[tokens, heads, head_dim] in float64, a sequence at a time; zeros where a context is empty."""
    query = query.double().cpu()
    out = torch.zeros_like(query)
    group = query.shape[1] // it.k_cache.shape[1]
    start = 0
    for index, length in enumerate(it.batch.query_lens):
        context = it.batch.context_lens_host[index]
        if context:
            keys, values = (it.context(cache.cpu(), index).double() for cache in (it.k_cache, it.v_cache))
            keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
            scores = torch.einsum("qhd,khd->hqk", query[start : start + length], keys) * scale
            ages = torch.arange(context - length, context)[:, None] - torch.arange(context)
            seen = (ages >= 0) & (ages < (context + 1 if window is None else window))
            weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
            out[start : start + length] = torch.einsum("hqk,khd->qhd", weights, values)
        start += length
    return out


def on_device(it: Paged, kernels: Kernels, dtype: torch.dtype) -> Paged:
    """The same, with NaN wherever a kernel has no business: past a context, in other blocks."""
    tensors = ("positions", "slot_mapping", "cu_seqlens", "context_lens", "block_tables")
    moved = {name: getattr(it.batch, name).to(kernels.device) for name in tensors}
    batch = replace(it.batch, **moved, derived={})
    written = torch.zeros(it.k_cache.shape[0], BLOCK_SIZE, dtype=torch.bool)
    for table, context in zip(it.tables, batch.context_lens_host, strict=True):
        for place in range(context):
            written[table[place // BLOCK_SIZE], place % BLOCK_SIZE] = True
    caches = []
    for cache, poison in ((it.k_cache, math.nan), (it.v_cache, math.inf)):
        visible = written[:, None, :, None].expand(cache.shape)
        caches.append(torch.where(visible, cache, poison).to(kernels.device, dtype))
    return Paged(batch, *caches, it.tables)


def check(
    kernels: Kernels, it: Paged, dtype: torch.dtype, heads: int, window: int | None = None, stride: int = 0
) -> None:
    it = on_device(it, kernels, dtype)
    head_dim = it.k_cache.shape[3]
    wide = torch.randn(it.batch.num_tokens, heads + stride, head_dim)
    query = wide.to(kernels.device, dtype)[:, :heads]
    scale = head_dim**-0.5
    out = kernels.run.paged_attention(query, it.k_cache, it.v_cache, it.batch, scale, window)
    assert out.dtype == dtype
    assert out.shape == query.shape
    exact = expected(it, query, scale, window)
    assert bool(out.isfinite().all())
    error = float((out.double().cpu() - exact).norm() / exact.norm())
    assert error < TOLERANCE[dtype]


@both_prefills
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_mixed_batches(
    kernels: Kernels, paged: Callable[..., Paged], head_dim: int, dtype: torch.dtype
) -> None:
    it = paged(DECODES + CHUNKS, decodes=len(DECODES), kv_heads=2, head_dim=head_dim)
    check(kernels, it, dtype, heads=6, stride=2)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("window", [None, 48])
def test_decodes_beside_prompts(
    kernels: Kernels,
    paged: Callable[..., Paged],
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
    window: int | None,
) -> None:
    """Prompts on some multiprocessors, fewer than they have tiles. What follows waits for both."""
    monkeypatch.setattr(attention, "prompt_multiprocessors", lambda *_: blocks)
    it = paged(DECODES + CHUNKS, decodes=len(DECODES), kv_heads=2, head_dim=128)
    for _ in range(3):
        check(kernels, it, torch.bfloat16, heads=8, window=window)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 2), (8, 2), (14, 2), (8, 1), (71, 1), (17, 1)])
def test_groups(kernels: Kernels, paged: Callable[..., Paged], heads: int, kv_heads: int) -> None:
    it = paged([(1, 100), (1, 1), (5, 70)], decodes=2, kv_heads=kv_heads, head_dim=64)
    check(kernels, it, torch.bfloat16, heads)


@both_prefills
@pytest.mark.parametrize("window", [1, 16, 48, 64, 100, 1000])
@pytest.mark.parametrize("head_dim", [64, 256])
def test_windows(kernels: Kernels, paged: Callable[..., Paged], window: int, head_dim: int) -> None:
    it = paged(DECODES + CHUNKS, decodes=len(DECODES), kv_heads=1, head_dim=head_dim)
    check(kernels, it, torch.float16, heads=2, window=window)


@pytest.mark.parametrize("splits", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("head_dim", [80, 128, 256])
def test_splits(
    kernels: Kernels,
    paged: Callable[..., Paged],
    monkeypatch: pytest.MonkeyPatch,
    splits: int,
    head_dim: int,
) -> None:
    """More splits than a context has blocks are no harm, nor is a window that leaves one."""
    monkeypatch.setattr(attention, "decode_splits", lambda *_: splits)
    it = paged([(1, 1), (1, 64), (1, 500), (1, 129)], decodes=4, kv_heads=2, head_dim=head_dim)
    check(kernels, it, torch.bfloat16, heads=8)
    check(kernels, it, torch.bfloat16, heads=8, window=70)


@pytest.mark.parametrize("splits", [1, 3])
def test_empty_contexts_give_zeros(
    kernels: Kernels, paged: Callable[..., Paged], monkeypatch: pytest.MonkeyPatch, splits: int
) -> None:
    """What pads a CUDA graph, with whatever its table says."""
    monkeypatch.setattr(attention, "decode_splits", lambda *_: splits)
    it = paged([(1, 300), (1, 1), (1, 5), (1, 1)], decodes=4, kv_heads=2, head_dim=64)
    for index, absurd in ((1, 10**8), (3, -1)):
        it.batch.context_lens[index], it.batch.context_lens_host[index] = 0, 0
        it.batch.block_tables[index] = absurd
    check(kernels, it, torch.bfloat16, heads=8)


@pytest.mark.parametrize("splits", [1, 5])
def test_host_lengths_are_only_a_hint(
    kernels: Kernels, paged: Callable[..., Paged], monkeypatch: pytest.MonkeyPatch, splits: int
) -> None:
    """A captured graph is replayed with other contexts than those that its launch was chosen for."""
    monkeypatch.setattr(attention, "decode_splits", lambda *_: splits)
    it = on_device(paged([(1, 300), (1, 5)], decodes=2, kv_heads=1, head_dim=64), kernels, torch.float16)
    query = torch.randn(2, 4, 64).to(kernels.device, torch.float16)
    replayed = replace(it.batch, context_lens_host=[64, 64])
    out = kernels.run.paged_attention(query, it.k_cache, it.v_cache, replayed, 0.125, None)
    exact = expected(it, query, 0.125, None)
    assert float((out.double().cpu() - exact).norm() / exact.norm()) < TOLERANCE[torch.float16]


@both_prefills
@pytest.mark.parametrize("decodes", [0, 1])
def test_one_token(kernels: Kernels, paged: Callable[..., Paged], decodes: int) -> None:
    check(kernels, paged([(1, 1)], decodes=decodes, kv_heads=1, head_dim=96), torch.bfloat16, heads=3)


@both_prefills
@pytest.mark.parametrize("window", [None, 30])
def test_every_place_of_the_diagonal(
    kernels: Kernels, paged: Callable[..., Paged], window: int | None
) -> None:
    """Wherever in its tile a warp's rows begin and the window ends, what they may not see is masked."""
    chunks = [(2, 2 + before) for before in (*range(46, 66), *range(90, 95))]
    check(
        kernels,
        paged(chunks, decodes=0, kv_heads=1, head_dim=64),
        torch.float16,
        heads=1,
        window=window,
    )


@both_prefills
def test_many_short_chunks(kernels: Kernels, paged: Callable[..., Paged]) -> None:
    """More sequences than a warp has lanes, some of several tiles, some without tokens."""
    chunks = [(i % 3, i % 3 + 1) for i in range(40)]
    chunks[35] = (200, 210)
    check(kernels, paged(chunks, decodes=0, kv_heads=1, head_dim=64), torch.bfloat16, heads=1)


def test_launches_leave_nothing_behind(kernels: Kernels, paged: Callable[..., Paged]) -> None:
    """More launches than there are counters of tiles, and more tiles than thread blocks."""
    it = on_device(paged([(2, 3)], decodes=0, kv_heads=1, head_dim=64), kernels, torch.bfloat16)
    query = torch.randn(2, 6, 64).to(kernels.device, torch.bfloat16)
    outs = [
        kernels.run.paged_attention(query, it.k_cache, it.v_cache, it.batch, 0.125, None) for _ in range(260)
    ]
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_parts_meet_again_and_again(
    kernels: Kernels, paged: Callable[..., Paged], monkeypatch: pytest.MonkeyPatch, head_dim: int
) -> None:
    """More launches than there are sets of counters, of different numbers of parts and of thread blocks."""
    it = on_device(
        paged([(1, 150), (1, 40)], decodes=2, kv_heads=2, head_dim=head_dim), kernels, torch.bfloat16
    )
    query = torch.randn(2, 4, head_dim).to(kernels.device, torch.bfloat16)
    exact = expected(it, query, 0.125, None)
    outs: dict[int, Tensor] = {}
    for splits in [2, 3, 9] * 50:
        monkeypatch.setattr(attention, "decode_splits", lambda *_, splits=splits: splits)
        it.batch.derived.clear()
        out = kernels.run.paged_attention(query, it.k_cache, it.v_cache, it.batch, 0.125, None)
        assert torch.equal(out, outs.setdefault(splits, out))
    for out in outs.values():
        assert float((out.double().cpu() - exact).norm() / exact.norm()) < TOLERANCE[torch.bfloat16]


def test_more_blocks_than_may_meet(kernels: Kernels, paged: Callable[..., Paged]) -> None:
    it = on_device(paged([(1, 5)] * 3, decodes=3, kv_heads=1, head_dim=64), kernels, torch.bfloat16)
    num = SPLIT_TILES + 1
    it.batch.derived["decode_splitsNone"] = 2
    many = replace(it.batch, num_decodes=num, query_lens=[1] * num)
    query = torch.randn(num, 1, 64).to(kernels.device, torch.bfloat16)
    with pytest.raises(KernelError, match="invalid argument"):
        kernels.run.paged_attention(query, it.k_cache, it.v_cache, many, 0.125, None)


@both_prefills
@pytest.mark.parametrize("seed", range(3))
def test_random_batches(kernels: Kernels, paged: Callable[..., Paged], seed: int) -> None:
    torch.manual_seed(seed)
    decodes = [(1, int(n)) for n in torch.randint(1, 400, (3,))]
    lengths, before = torch.randint(1, 150, (3,)).tolist(), torch.randint(0, 200, (3,)).tolist()
    chunks = [(n, n + more) for n, more in zip(lengths, before, strict=True)]
    it = paged(decodes + chunks, decodes=3, kv_heads=2, head_dim=[128, 80, 96][seed], seed=seed)
    check(kernels, it, DTYPES[seed % 2], heads=8, window=[None, 90, 33][seed])


@both_prefills
@pytest.mark.parametrize(("splits", "window"), [(1, None), (2, None), (1, 2400)])
def test_long_contexts(
    kernels: Kernels,
    paged: Callable[..., Paged],
    monkeypatch: pytest.MonkeyPatch,
    splits: int,
    window: int | None,
) -> None:
    """Of more blocks than a warp reads at once from a table."""
    monkeypatch.setattr(attention, "decode_splits", lambda *_: splits)
    it = paged([(1, 4200), (1, 2049), (20, 2600)], decodes=2, kv_heads=1, head_dim=64)
    check(kernels, it, torch.bfloat16, heads=2, window=window)


@both_prefills
def test_large_scores_do_not_overflow(kernels: Kernels, paged: Callable[..., Paged]) -> None:
    it = paged([(1, 200), (70, 140)], decodes=1, kv_heads=1, head_dim=64)
    it.k_cache *= 200
    check(kernels, it, torch.float16, heads=2)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "scale"),
    [(torch.float32, 64, 0.1), (torch.bfloat16, 32, 0.1), (torch.float16, 64, 0.0)],
)
def test_what_no_kernel_serves_is_left_to_the_reference(
    kernels: Kernels, paged: Callable[..., Paged], dtype: torch.dtype, head_dim: int, scale: float
) -> None:
    it = paged([(1, 70), (5, 70)], decodes=1, kv_heads=1, head_dim=head_dim)
    query = torch.randn(6, 2, head_dim).to(dtype)
    caches = it.k_cache.to(dtype), it.v_cache.to(dtype)
    args = query, *caches, it.batch, scale, None
    assert torch.equal(kernels.run.paged_attention(*args), reference.paged_attention(*args))
