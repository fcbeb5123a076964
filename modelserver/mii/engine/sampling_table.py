"""What the sampler must know of each running sequence, kept on the host as numpy rows.

    SamplingParams ─open─> row of the table ─plan─> what this step needs   (host)
                                            └pack─> [n, WIDTH] int32 words (travel with the step's metadata)

Nothing here loops over sequences after `open`: plan and pack are a few array operations a step.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import reduce
from operator import or_

import numpy as np
from numpy.typing import NDArray

from mii.core import SamplingParams

MASK_64 = 0xFFFFFFFFFFFFFFFF


class Column(IntEnum):
    """Words of a packed row. Floats travel as their bits.

    PENALISED and BIASED are not about their row: read downwards, the first `SamplingPlan.penalised`
    (`biased`) words of the column are the indices within the step of the rows that have penalties (biases).
    """

    ROW = 0  # of the table, and of the sampler's state
    POSITION = 1  # that the sampled token takes in its sequence
    SEED_LOW = 2
    SEED_HIGH = 3
    TEMPERATURE = 4  # float32, as all down to FREQUENCY but TOP_K
    TOP_K = 5
    TOP_P = 6
    MIN_P = 7
    REPETITION = 8
    PRESENCE = 9
    FREQUENCY = 10
    PENALISED = 11
    BIASED = 12


class Need(IntFlag):
    SAMPLING = 1
    TOP_K = 2
    TOP_P = 4
    MIN_P = 8
    PENALTIES = 16
    BIAS = 32


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What one step's rows need together, known on the host: what is not needed is not launched."""

    greedy: bool  # every row has temperature 0
    top_k: bool  # some row has the filter
    top_p: bool
    min_p: bool
    penalised: int  # rows with a repetition, presence or frequency penalty
    biased: int  # rows with a logit bias, or still short of min_tokens
    logprobs: int | None  # most alternatives that a row wants; None: no row wants log-probabilities

    @property
    def plain(self) -> bool:
        """Whether the likeliest token of each row is all that is asked for."""
        return self.greedy and not self.penalised and not self.biased and self.logprobs is None


class SamplingTable:
    """One row for each sequence that runs; rows are 0..max_rows-1 and reused."""

    WIDTH = len(Column)

    def __init__(self, max_rows: int) -> None:
        self._words = np.zeros((max_rows, self.WIDTH), np.int32)
        self._needs = np.zeros(max_rows, np.int32)  # Need flags that hold at every position
        self._min_length = np.zeros(max_rows, np.int64)  # of the sequence, before which it may not end
        self._logprobs = np.full(max_rows, -1, np.int64)

    def open(self, row: int, params: SamplingParams, num_prompt_tokens: int) -> None:
        """A sequence enters `row`, for the first time or after a preemption; what was there is forgotten."""
        self._words[row] = _words(row, params)
        self._needs[row] = needs(params)
        self._min_length[row] = min_length(params, num_prompt_tokens)
        self._logprobs[row] = -1 if params.logprobs is None else params.logprobs

    def plan(self, rows: NDArray[np.integer], positions: NDArray[np.integer]) -> SamplingPlan:
        """rows [n], positions [n]: of the sequences that get a token in this step."""
        row_needs = self._needs_at(rows, positions)
        together = int(np.bitwise_or.reduce(row_needs))
        logprobs = int(self._logprobs[rows].max(initial=-1))
        return SamplingPlan(
            greedy=not together & Need.SAMPLING,
            top_k=bool(together & Need.TOP_K),
            top_p=bool(together & Need.TOP_P),
            min_p=bool(together & Need.MIN_P),
            penalised=int(np.count_nonzero(row_needs & Need.PENALTIES)),
            biased=int(np.count_nonzero(row_needs & Need.BIAS)),
            logprobs=None if logprobs < 0 else logprobs,
        )

    def pack(self, rows: NDArray[np.integer], positions: NDArray[np.integer], out: NDArray[np.int32]) -> None:
        """Fills out [n, WIDTH], as the plan of the same rows and positions expects it."""
        out[:] = self._words[rows]
        out[:, Column.POSITION] = positions
        row_needs = self._needs_at(rows, positions)
        for column, need in ((Column.PENALISED, Need.PENALTIES), (Column.BIASED, Need.BIAS)):
            members = np.flatnonzero(row_needs & need)
            out[: len(members), column] = members

    def _needs_at(self, rows: NDArray[np.integer], positions: NDArray[np.integer]) -> NDArray[np.int32]:
        short = positions < self._min_length[rows]
        result: NDArray[np.int32] = self._needs[rows] | short * np.int32(Need.BIAS)
        return result


def needs(params: SamplingParams) -> Need:
    """What holds at every position of the request. Filters change nothing for a greedy one."""
    sampling = params.temperature > 0
    held = {
        Need.SAMPLING: sampling,
        Need.TOP_K: sampling and params.top_k > 0,
        Need.TOP_P: sampling and params.top_p < 1,
        Need.MIN_P: sampling and params.min_p > 0,
        Need.PENALTIES: has_penalties(params),
        Need.BIAS: bool(params.logit_bias),
    }
    return reduce(or_, (need for need, holds in held.items() if holds), Need(0))


def has_penalties(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0


def min_length(params: SamplingParams, num_prompt_tokens: int) -> int:
    """Length of prompt and output before which no EOS or stop token may come; 0 if there is none to mask."""
    ends = params.eos_token_ids + params.stop_token_ids
    return num_prompt_tokens + params.min_tokens if ends and params.min_tokens > 0 else 0


def _words(row: int, params: SamplingParams) -> NDArray[np.int32]:
    words = np.zeros(SamplingTable.WIDTH, np.int32)
    floats = words.view(np.float32)
    seed = params.seed & MASK_64
    words[Column.ROW] = row
    words[Column.SEED_LOW : Column.SEED_HIGH + 1] = np.array([seed], "<u8").view(np.int32)
    floats[Column.TEMPERATURE] = params.temperature
    floats[Column.TOP_P] = 1.0
    if params.temperature > 0:
        words[Column.TOP_K] = min(params.top_k, np.iinfo(np.int32).max)
        floats[Column.TOP_P] = params.top_p
        floats[Column.MIN_P] = params.min_p
    floats[Column.REPETITION] = params.repetition_penalty
    floats[Column.PRESENCE] = params.presence_penalty
    floats[Column.FREQUENCY] = params.frequency_penalty
    return words
