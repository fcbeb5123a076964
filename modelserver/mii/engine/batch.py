"""From a scheduled batch to the one packed array that crosses to the device, and its views there.

Everything a step needs is int32 in a single buffer (floats by bit pattern), so that one copy carries it:

    token_ids [T] | positions [T] | slot_mapping [T] | cu_seqlens [S+1] | context_lens [S] | block_tables [S*B]
    | decode_rows [D] | sample_index [N] | sample_rows [N] | sampling [N*W]

T tokens, S sequences, B blocks in the widest table, D decodes, N sampled rows, W = SamplingTable.WIDTH.
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

    token_ids: Tensor  # [tokens] int32; the first num_decodes are filled in from the device's last tokens
    ragged: RaggedBatch
    decode_rows: Tensor  # [decodes] int32
    sample_index: Tensor  # [sampled] int32, which of the packed tokens is sampled from
    sample_rows: Tensor  # [sampled] int32
    sampling: Tensor  # [sampled, WIDTH] int32
    plan: SamplingPlan


class BatchBuilder:
    """Owns the host arrays by row and the pinned staging buffers."""

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
        self._turn = 0

    def build(self, batch: ScheduledBatch) -> DeviceBatch:
        for sequence in batch.admitted:
            assert sequence.row is not None
            self.sampling.open(sequence.row, sequence.sampling, sequence.num_prompt)
        self._turn ^= 1
        staging = self._staging[self._turn]
        writer = _Writer(staging.numpy())
        decodes, chunks = batch.decodes, batch.chunks
        num_decodes = len(decodes)
        sequences = decodes + [chunk.sequence for chunk in chunks]
        rows = self._sync_tables(sequences)
        decode_positions = np.fromiter((s.num_computed - 1 for s in decodes), np.int32, num_decodes)
        lengths = [1] * num_decodes + [chunk.length for chunk in chunks]
        contexts = [s.num_computed for s in sequences]
        total = sum(lengths)
        width = blocks_for(max(contexts))

        token_ids = writer.take(total)
        positions = writer.take(total)
        slots = writer.take(total)
        token_ids[:num_decodes] = 0
        positions[:num_decodes] = decode_positions
        at = num_decodes
        for chunk in chunks:
            end = chunk.start + chunk.length
            token_ids[at : at + chunk.length] = chunk.sequence.token_ids[chunk.start : end]
            positions[at : at + chunk.length] = np.arange(chunk.start, end, dtype=np.int32)
            at += chunk.length
        blocks = self._tables[np.repeat(rows, lengths), positions // BLOCK_SIZE]
        np.add(blocks * BLOCK_SIZE, positions % BLOCK_SIZE, out=slots)
        cu_seqlens = writer.take(len(sequences) + 1)
        cu_seqlens[0] = 0
        np.cumsum(lengths, out=cu_seqlens[1:])
        writer.put(contexts)
        writer.put(self._tables[rows, :width].reshape(-1))
        writer.put(rows[:num_decodes])

        sampled = np.ones(len(sequences), dtype=bool)
        sampled[num_decodes:] = [chunk.samples for chunk in chunks]
        sample_rows = rows[sampled]
        sample_positions = np.asarray(contexts, np.int32)[sampled]
        plan = self.sampling.plan(sample_rows, sample_positions)
        writer.put(cu_seqlens[1:][sampled] - 1)
        writer.put(sample_rows)
        packed = writer.take(len(sample_rows) * SamplingTable.WIDTH)
        self.sampling.pack(sample_rows, sample_positions, packed.reshape(-1, SamplingTable.WIDTH))

        reader = _Reader(self._cross(staging[: writer.at]))
        seqs, num_sampled = len(sequences), len(sample_rows)
        device_tokens, device_positions, device_slots = (reader.take(total) for _ in range(3))
        return DeviceBatch(
            token_ids=device_tokens,
            ragged=RaggedBatch(
                positions=device_positions,
                slot_mapping=device_slots,
                cu_seqlens=reader.take(seqs + 1),
                context_lens=reader.take(seqs),
                block_tables=reader.take(seqs * width).view(seqs, width),
                query_lens=lengths,
                context_lens_host=contexts,
                num_decodes=num_decodes,
            ),
            decode_rows=reader.take(num_decodes),
            sample_index=reader.take(num_sampled),
            sample_rows=reader.take(num_sampled),
            sampling=reader.take(num_sampled * SamplingTable.WIDTH).view(num_sampled, SamplingTable.WIDTH),
            plan=plan,
        )

    def _sync_tables(self, sequences: list[Sequence]) -> Int32:
        """Copies what grew since the last step into the table rows; returns the rows."""
        for sequence in sequences:
            known, now = sequence.synced_blocks, len(sequence.block_table)
            if known != now:
                self._tables[sequence.row, known:now] = sequence.block_table[known:]
                sequence.synced_blocks = now
        return np.fromiter((s.row for s in sequences), np.int32, len(sequences))

    def _cross(self, staged: Tensor) -> Tensor:
        return staged if self._device.type == "cpu" else staged.to(self._device, non_blocking=True)


class _Writer:
    def __init__(self, buffer: Int32) -> None:
        self._buffer = buffer
        self.at = 0

    def take(self, length: int) -> Int32:
        view = self._buffer[self.at : self.at + length]
        self.at += length
        return view

    def put(self, values: Any) -> None:
        self.take(len(values))[:] = values


class _Reader:
    """Reads the fields in the order in which they were written."""

    def __init__(self, buffer: Tensor) -> None:
        self._buffer = buffer
        self._at = 0

    def take(self, length: int) -> Tensor:
        self._at += length
        return self._buffer[self._at - length : self._at]
