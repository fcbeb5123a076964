"""The one struct that describes a ragged mixed batch to the kernels."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class RaggedBatch:
    """Sequences of one forward: decodes (one token each) first, then prompt chunks, packed without padding.

    Tensors are on the model's device; the plain ints and lists are their host copies, so that a launcher
    can choose tiles without a synchronisation.
    """

    positions: Tensor  # [tokens] int32, each token's place in its sequence
    slot_mapping: Tensor  # [tokens] int32, block * block_size + offset: where the token's K and V go
    cu_seqlens: Tensor  # [seqs + 1] int32, where each sequence's tokens start in the packed batch
    context_lens: Tensor  # [seqs] int32, KV length of each sequence, this step's tokens included
    block_tables: Tensor  # [seqs, max_blocks] int32; entries past a sequence's blocks are arbitrary
    query_lens: list[int]  # [seqs] tokens of each sequence in this batch
    context_lens_host: list[int]  # [seqs]
    num_decodes: int  # the first so many sequences have one token each
    # What a backend works out once a step, of these tensors too: a batch with others needs a dict of its own.
    derived: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def num_tokens(self) -> int:
        return int(self.positions.shape[0])

    @cached_property
    def max_context_len(self) -> int:
        return max(self.context_lens_host, default=0)
