"""What one rank holds of a model under tensor parallelism: which heads, rows and columns. Pure.

Query heads are split evenly. KV heads are split too, or each is held by several ranks where there are fewer.
MLPs and experts are split along their intermediate size, embedding and head along the vocabulary.
"""

from dataclasses import dataclass, replace

from mii.errors import ModelLoadError
from mii.models.description import Description
from mii_spec.sizing import splits

Span = tuple[int, int]  # from the first up to, but not including, the second

_ROWS = 64  # a rank's share of the vocabulary is a multiple: matrix products like it


@dataclass(frozen=True)
class Shard:
    """Rank `rank` of `size`; the only one by default."""

    rank: int = 0
    size: int = 1

    def span(self, total: int) -> Span:
        """This rank's part of `total` items, as even as it gets."""
        return total * self.rank // self.size, total * (self.rank + 1) // self.size

    def kv_span(self, kv_heads: int) -> Span:
        """This rank's KV heads; one, which others hold too, if there are fewer heads than ranks."""
        if kv_heads >= self.size:
            return self.span(kv_heads)
        head = self.rank * kv_heads // self.size
        return head, head + 1

    def vocabulary_rows(self, vocab_size: int) -> int:
        """Rows of the vocabulary that each rank makes room for; the last ranks may have fewer."""
        rows = -(-vocab_size // self.size)
        return rows if self.size == 1 else -(-rows // _ROWS) * _ROWS

    def vocabulary_span(self, vocab_size: int) -> Span:
        """This rank's part of the vocabulary."""
        rows = self.vocabulary_rows(vocab_size)
        return min(rows * self.rank, vocab_size), min(rows * (self.rank + 1), vocab_size)

    def local(self, it: Description) -> Description:
        """The model as far as this rank computes it: its own heads, everything else unchanged."""
        first, end = self.kv_span(it.kv_heads)
        return replace(it, heads=it.heads // self.size, kv_heads=end - first)

    def fused_qkv_rows(self, it: Description, *, grouped: bool) -> list[Span]:
        """Of a fused QKV matrix this rank's rows, in the order Q, K, V.

        `grouped`: the checkpoint has them as (queries of a KV group, its key, its value) per group, not as
        (all queries, all keys, all values).
        """
        queries, kv_heads = range(*self.span(it.heads)), range(*self.kv_span(it.kv_heads))
        group = it.heads // it.kv_heads
        if grouped:
            heads = [head // group * (group + 2) + head % group for head in queries]
            heads += [head * (group + 2) + group for head in kv_heads]
            heads += [head * (group + 2) + group + 1 for head in kv_heads]
        else:
            heads = [*queries, *(it.heads + head for head in kv_heads)]
            heads += [it.heads + it.kv_heads + head for head in kv_heads]
        return _merged([(head * it.head_dim, (head + 1) * it.head_dim) for head in heads])


def refuse_indivisible(it: Description, ranks: int) -> None:
    """Raises ModelLoadError if the model's heads cannot be shared by so many ranks."""
    if splits(it.heads, it.kv_heads, ranks):
        return
    possible = [str(n) for n in range(1, it.heads + 1) if splits(it.heads, it.kv_heads, n)]
    raise ModelLoadError(
        f"tensor_parallel {ranks} does not divide the model: it has {it.heads} attention heads and "
        f"{it.kv_heads} KV heads; it can be one of {', '.join(possible)}"
    )


def scaled(span: Span, factor: int) -> Span:
    """In units that are `factor` times smaller: rows of heads, say."""
    return span[0] * factor, span[1] * factor


def shifted(span: Span, offset: int) -> Span:
    return span[0] + offset, span[1] + offset


def _merged(spans: list[Span]) -> list[Span]:
    """Neighbours as one."""
    merged = spans[:1]
    for start, stop in spans[1:]:
        if merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged
