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


@dataclass(frozen=True, slots=True)
class Frame:
    """A place on the device that steps of decodes alone are padded to, so that a captured graph fits them."""

    decodes: int  # the step's own, and then padding: decodes of one token that nobody reads
    width: int  # blocks in each table
    buffer: Tensor  # int32, where the packed step goes


@dataclass(slots=True)
class DeviceBatch:
    """One step's metadata on the device. What is sampled comes after the padding, and has none."""

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
    width: int  # blocks in each table

    @classmethod
    def of(cls, batch: ScheduledBatch, sequences: list[Sequence], frame: Frame | None) -> "Shape":
        decodes = len(batch.decodes)
        padding = frame.decodes - decodes if frame else 0
        contexts = [sequence.num_computed for sequence in sequences]
        return cls(
            lengths=[1] * (decodes + padding) + [chunk.length for chunk in batch.chunks],
            contexts=contexts + [1] * padding,
            samples=[True] * decodes + [False] * padding + [chunk.samples for chunk in batch.chunks],
            decodes=decodes + padding,
            width=frame.width if frame else blocks_for(max(contexts)),
        )

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
    """Owns the host arrays by row and the staging buffers. Row `max_running` is the padding's."""

    def __init__(
        self,
        *,
        max_running: int,
        max_model_len: int,
        token_budget: int,
        device: torch.device,
        spare_block: int = 0,
    ) -> None:
        """`spare_block`: no sequence's, where the padding's K and V go."""
        self.sampling = SamplingTable(max_running)
        self.max_blocks = blocks_for(max_model_len)  # of a sequence
        self.max_running = max_running
        self._device = device
        self._tables: Int32 = np.zeros((max_running + 1, self.max_blocks), dtype=np.int32)
        self._tables[max_running] = spare_block
        tokens = max(token_budget, max_running)
        self.words = 3 * tokens + max_running * (6 + self.max_blocks + SamplingTable.WIDTH) + 1  # at most
        pinned = device.type == "cuda"
        # A copy may still be reading one buffer while the next step is packed into the other.
        self._staging = [torch.empty(self.words, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]

    def build(self, batch: ScheduledBatch, frame: Frame | None = None) -> DeviceBatch:
        """Packs the batch and queues its copy to the device, into the frame if there is one."""
        for sequence in batch.admitted:
            assert sequence.row is not None
            self.sampling.open(sequence.row, sequence.sampling, sequence.num_prompt)
        sequences = batch.decodes + [chunk.sequence for chunk in batch.chunks]
        shape = Shape.of(batch, sequences, frame)
        rows = self._sync_tables(sequences, len(shape.lengths))
        layout = shape.layout()
        self._staging.reverse()
        staging = self._staging[0]
        packed = staging.numpy()
        host = {name: packed[place] for name, place in layout.items()}
        self._write_tokens(host, batch, shape, rows)
        plan = self._write_sampling(host, shape, rows)
        return _read(self._cross(staging[: layout["sampling"].stop], frame), layout, shape, plan)

    def _sync_tables(self, sequences: list[Sequence], count: int) -> Int32:
        """Copies what grew since the last step into the table rows; returns the rows, and the padding's up to
        `count`."""
        for sequence in sequences:
            known, now = sequence.synced_blocks, len(sequence.block_table)
            if known != now:
                self._tables[sequence.row, known:now] = sequence.block_table[known:]
                sequence.synced_blocks = now
        rows = np.fromiter((sequence.row for sequence in sequences), np.int32, len(sequences))
        return np.pad(rows, (0, count - len(rows)), constant_values=self.max_running)

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

    def _cross(self, staged: Tensor, frame: Frame | None) -> Tensor:
        if frame is not None:
            return frame.buffer[: len(staged)].copy_(staged, non_blocking=True)
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
