"""From a scheduled batch to the one packed array that crosses to the device, and its views there.

Everything a step needs is int32 in a single buffer (floats by bit pattern), so that one copy carries it. What
lies where is said once, in `Shape.layout`, for the writing host and the reading device alike.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mii.config import BLOCK_SIZE
from mii.engine.sampling_table import SamplingPlan, SamplingTable
from mii.engine.scheduler import ScheduledBatch
from mii.engine.sequence import Sequence, blocks_for
from mii_kernels.batch import RaggedBatch

Int32 = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(slots=True)
class DeviceBatch:
    """One step's metadata on the device."""

    token_ids: Tensor  # [tokens] int32; those of the decodes are filled in from the device's last tokens
    ragged: RaggedBatch
    decode_rows: Tensor  # [decodes] int32
    sample_index: Tensor  # [sampled] int32, which of the packed tokens is sampled from
    sample_rows: Tensor  # [sampled] int32
    sampling: Tensor  # [sampled, SamplingTable.WIDTH] int32
    plan: SamplingPlan


@dataclass(slots=True)
class Shape:
    """The sizes of one step."""

    lengths: list[int]  # tokens of each sequence in this step
    contexts: list[int]  # KV length of each sequence, this step included
    samples: list[bool]  # whether the sequence gets a token
    decodes: int

    @classmethod
    def of(cls, batch: ScheduledBatch, sequences: list[Sequence]) -> "Shape":
        decodes = len(batch.decodes)
        return cls(
            lengths=[1] * decodes + [chunk.length for chunk in batch.chunks],
            contexts=[sequence.num_computed for sequence in sequences],
            samples=[True] * decodes + [chunk.samples for chunk in batch.chunks],
            decodes=decodes,
        )

    @property
    def width(self) -> int:
        """Blocks in the widest table."""
        return blocks_for(max(self.contexts))

    def layout(self) -> dict[str, slice]:
        """Where each field lies in the packed buffer."""
        tokens, sequences, sampled = sum(self.lengths), len(self.lengths), sum(self.samples)
        sizes = {
            "token_ids": tokens,
            "positions": tokens,
            "slot_mapping": tokens,
            "cu_seqlens": sequences + 1,
            "context_lens": sequences,
            "block_tables": sequences * self.width,
            "decode_rows": self.decodes,
            "sample_index": sampled,
            "sample_rows": sampled,
            "sampling": sampled * SamplingTable.WIDTH,
        }
        layout, start = {}, 0
        for name, size in sizes.items():
            layout[name] = slice(start, start + size)
            start += size
        return layout


class BatchBuilder:
    """Owns the host arrays by row and the staging buffers."""

    def __init__(
        self, *, max_running: int, max_model_len: int, token_budget: int, device: torch.device
    ) -> None:
        self.sampling = SamplingTable(max_running)
        self._device = device
        self._tables: Int32 = np.zeros((max_running, blocks_for(max_model_len)), dtype=np.int32)
        words = 3 * token_budget + max_running * (6 + self._tables.shape[1] + SamplingTable.WIDTH) + 1
        pinned = device.type == "cuda"
        # A copy may still be reading one buffer while the next step is packed into the other.
        self._staging = [torch.empty(words, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]

    def build(self, batch: ScheduledBatch) -> DeviceBatch:
        """Packs the batch and queues its copy to the device."""
        for sequence in batch.admitted:
            assert sequence.row is not None
            self.sampling.open(sequence.row, sequence.sampling, sequence.num_prompt)
        sequences = batch.decodes + [chunk.sequence for chunk in batch.chunks]
        rows = self._sync_tables(sequences)
        shape = Shape.of(batch, sequences)
        layout = shape.layout()
        self._staging.reverse()
        staging = self._staging[0]
        packed = staging.numpy()
        host = {name: packed[place] for name, place in layout.items()}
        self._write_tokens(host, batch, shape, rows)
        plan = self._write_sampling(host, shape, rows)
        return _read(self._cross(staging[: layout["sampling"].stop]), layout, shape, plan)

    def _sync_tables(self, sequences: list[Sequence]) -> Int32:
        """Copies what grew since the last step into the table rows; returns the rows."""
        for sequence in sequences:
            known, now = sequence.synced_blocks, len(sequence.block_table)
            if known != now:
                self._tables[sequence.row, known:now] = sequence.block_table[known:]
                sequence.synced_blocks = now
        return np.fromiter((s.row for s in sequences), np.int32, len(sequences))

    def _write_tokens(self, host: dict[str, Int32], batch: ScheduledBatch, shape: Shape, rows: Int32) -> None:
        """Tokens, their positions and slots, and the bounds of the sequences."""
        token_ids, positions, decodes = host["token_ids"], host["positions"], shape.decodes
        token_ids[:decodes] = 0
        positions[:decodes] = shape.contexts[:decodes]
        positions[:decodes] -= 1
        at = decodes
        for chunk in batch.chunks:
            start, end = chunk.start, chunk.start + chunk.length
            token_ids[at : at + chunk.length] = chunk.sequence.token_ids[start:end]
            positions[at : at + chunk.length] = np.arange(start, end, dtype=np.int32)
            at += chunk.length
        blocks = self._tables[np.repeat(rows, shape.lengths), positions // BLOCK_SIZE]
        np.add(blocks * BLOCK_SIZE, positions % BLOCK_SIZE, out=host["slot_mapping"])
        host["cu_seqlens"][0] = 0
        np.cumsum(shape.lengths, out=host["cu_seqlens"][1:])
        host["context_lens"][:] = shape.contexts
        host["block_tables"][:] = self._tables[rows, : shape.width].reshape(-1)

    def _write_sampling(self, host: dict[str, Int32], shape: Shape, rows: Int32) -> SamplingPlan:
        sampled = np.array(shape.samples, dtype=bool)
        sample_rows, positions = rows[sampled], host["context_lens"][sampled]
        host["decode_rows"][:] = rows[: shape.decodes]
        host["sample_index"][:] = host["cu_seqlens"][1:][sampled] - 1
        host["sample_rows"][:] = sample_rows
        self.sampling.pack(sample_rows, positions, host["sampling"].reshape(-1, SamplingTable.WIDTH))
        return self.sampling.plan(sample_rows, positions)

    def _cross(self, staged: Tensor) -> Tensor:
        return staged if self._device.type == "cpu" else staged.to(self._device, non_blocking=True)


def _read(packed: Tensor, layout: dict[str, slice], shape: Shape, plan: SamplingPlan) -> DeviceBatch:
    device = {name: packed[place] for name, place in layout.items()}
    ragged = RaggedBatch(
        positions=device["positions"],
        slot_mapping=device["slot_mapping"],
        cu_seqlens=device["cu_seqlens"],
        context_lens=device["context_lens"],
        block_tables=device["block_tables"].view(len(shape.lengths), shape.width),
        query_lens=shape.lengths,
        context_lens_host=shape.contexts,
        num_decodes=shape.decodes,
    )
    return DeviceBatch(
        token_ids=device["token_ids"],
        ragged=ragged,
        decode_rows=device["decode_rows"],
        sample_index=device["sample_index"],
        sample_rows=device["sample_rows"],
        sampling=device["sampling"].view(-1, SamplingTable.WIDTH),
        plan=plan,
    )
