"""Who holds what of a model, for any number of heads and ranks."""

from itertools import pairwise, product

import pytest

from mii.errors import ModelLoadError
from mii.models.description import Description
from mii.models.shard import Shard, refuse_indivisible
from mii_spec.sizing import splits

DIM = 8
MODELS = [
    (kv_heads * group, kv_heads, ranks)
    for kv_heads, group in product((1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 7))
    for ranks in range(1, kv_heads * group + 1)
    if splits(kv_heads * group, kv_heads, ranks)
]


def description(heads, kv_heads):
    return Description(
        family="f",
        vocab_size=100,
        hidden=heads * DIM,
        layers=1,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=DIM,
        intermediate=64,
        max_position=64,
        original_max_position=64,
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_every_query_head_is_with_its_kv_head(grouped):
    for heads, kv_heads, ranks in MODELS:
        check_heads(description(heads, kv_heads), ranks, grouped=grouped)


def check_heads(it, ranks, *, grouped):
    """By name: the fused matrix has as its rows the names of heads, in the checkpoint's order."""
    refuse_indivisible(it, ranks)
    group = it.heads // it.kv_heads
    queries = [("q", n) for n in range(it.heads)]
    keys, values = ([(kind, n) for n in range(it.kv_heads)] for kind in "kv")
    if grouped:
        stored = [
            row
            for n in range(it.kv_heads)
            for row in (*queries[n * group : (n + 1) * group], keys[n], values[n])
        ]
    else:
        stored = queries + keys + values
    held = []
    for rank in range(ranks):
        shard = Shard(rank, ranks)
        local = shard.local(it)
        spans = shard.fused_qkv_rows(it, grouped=grouped)
        assert all(stop != start for (_, stop), (start, _) in pairwise(spans)), "neighbours are one span"
        mine = [stored[row // DIM] for span in spans for row in range(*span, DIM)]
        q, k, v = (
            mine[: local.heads],
            mine[local.heads : local.heads + local.kv_heads],
            mine[-local.kv_heads :],
        )
        assert [n for _, n in k] == [n for _, n in v]
        for index, (kind, head) in enumerate(q):
            assert (kind, head // group) == ("q", k[index * local.kv_heads // local.heads][1])
        held += q
    assert held == queries, "each query head is somewhere, once"


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("vocab_size", [1, 64, 100, 32000, 32001, 50257, 128256, 151936])
def test_every_token_is_somewhere_once(vocab_size, ranks):
    shards = [Shard(rank, ranks) for rank in range(ranks)]
    spans = [shard.vocabulary_span(vocab_size) for shard in shards]
    assert (spans[0][0], spans[-1][1]) == (0, vocab_size)
    assert all(stop == start for (_, stop), (start, _) in pairwise(spans))
    (rows,) = {shard.vocabulary_rows(vocab_size) for shard in shards}
    assert all(stop - start <= rows for start, stop in spans)
    assert rows == vocab_size if ranks == 1 else rows % 64 == 0


@pytest.mark.parametrize(("heads", "kv_heads", "possible"), [(9, 3, "1, 3, 9"), (71, 1, "1, 71")])
def test_a_refusal_says_what_would_do(heads, kv_heads, possible):
    with pytest.raises(
        ModelLoadError, match=f"{heads} attention heads and {kv_heads} KV heads; .* of {possible}$"
    ):
        refuse_indivisible(description(heads, kv_heads), 2)
