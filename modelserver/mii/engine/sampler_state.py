"""What the sampler keeps on the device between steps, for the requests that need it.

Nothing is allocated before the first such request. Writes are ordered with the steps by the device's
stream, so a row may be closed and reopened while a step that used it still runs.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mii.core import SamplingParams
from mii.engine.crossing import upload
from mii.engine.sampling_table import min_length
from mii.errors import InvalidRequest

FOREVER = 2**62  # a position no sequence reaches


class TokenCounts:
    """How often each token occurs in the output of each row that has penalties, and whether in its prompt.

    `counts` [slots, vocab] int32 and `in_prompt` [slots, vocab] bool grow by doubling; a slot serves one row
    at a time.
    """

    def __init__(self, vocab_size: int, max_rows: int, device: torch.device) -> None:
        self.counts = torch.zeros(0, vocab_size, dtype=torch.int32, device=device)
        self.in_prompt = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)
        self._slot_of_row = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._slots: dict[int, int] = {}  # the same on the host, open rows only
        self._free: list[int] = []

    def open(self, row: int, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """row: closed until now."""
        slot = self._slots[row] = self._take_slot()
        self._slot_of_row[row].fill_(slot)  # assigning a number would wait for a GPU
        ids = upload(token_ids, torch.int64, self.counts.device)
        self.in_prompt[slot].zero_().index_fill_(0, ids[:num_prompt_tokens], True)
        one = self.counts.new_ones(())
        self.counts[slot].zero_().index_put_((ids[num_prompt_tokens:],), one, accumulate=True)

    def close(self, row: int) -> None:
        if row in self._slots:
            self._free.append(self._slots.pop(row))

    def slots(self, rows: Tensor) -> Tensor:
        """rows [m] int64, all open -> [m] int64."""
        return self._slot_of_row[rows]

    def _take_slot(self) -> int:
        if not self._free:
            size = self.counts.shape[0]
            added = max(1, size)
            self.counts = _with_rows(self.counts, added)
            self.in_prompt = _with_rows(self.in_prompt, added)
            self._free.extend(range(size, size + added))
        return self._free.pop()


class Biases:
    """What is added to single logits of a row, and until which position: logit_bias and min_tokens.

    Each row has `width` entries (token id, value, until), unused ones with value 0; the width doubles as
    requests need more.
    """

    def __init__(self, vocab_size: int, max_rows: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._token_ids = torch.zeros(max_rows, 0, dtype=torch.int64, device=device)
        self._values = torch.zeros(max_rows, 0, dtype=torch.float32, device=device)
        self._until = torch.zeros(max_rows, 0, dtype=torch.int64, device=device)

    def open(self, row: int, params: SamplingParams, num_prompt_tokens: int) -> None:
        entries = self._entries(params, num_prompt_tokens)
        if not entries:
            return
        self._widen(len(entries))
        entries += [(0, 0.0, 0)] * (self._token_ids.shape[1] - len(entries))
        token_ids, values, until = zip(*entries, strict=True)
        device = self._values.device
        self._token_ids[row] = upload(token_ids, torch.int64, device)
        self._values[row] = upload(values, torch.float32, device)
        self._until[row] = upload(until, torch.int64, device)

    def at(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """rows, positions [m] int64 -> token ids [m, width] int64, what to add to them [m, width] float32."""
        holds = positions[:, None] < self._until[rows]
        return self._token_ids[rows], torch.where(holds, self._values[rows], 0.0)

    def _entries(self, params: SamplingParams, num_prompt_tokens: int) -> list[tuple[int, float, int]]:
        self._check(params.logit_bias)
        entries = [(token_id, value, FOREVER) for token_id, value in params.logit_bias.items()]
        if until := min_length(params, num_prompt_tokens):
            ends = {*params.eos_token_ids, *params.stop_token_ids}
            entries += [(end, -torch.inf, until) for end in sorted(ends) if 0 <= end < self._vocab_size]
        return entries

    def _check(self, token_ids: Iterable[int]) -> None:
        for token_id in token_ids:
            if not 0 <= token_id < self._vocab_size:
                raise InvalidRequest(
                    f"logit_bias: token id {token_id} is not in the vocabulary (0 to {self._vocab_size - 1})",
                    param="logit_bias",
                )

    def _widen(self, width: int) -> None:
        now = self._token_ids.shape[1]
        if width > now:
            added = (1 << (width - 1).bit_length()) - now
            self._token_ids = _with_columns(self._token_ids, added)
            self._values = _with_columns(self._values, added)
            self._until = _with_columns(self._until, added)


def _with_rows(x: Tensor, added: int) -> Tensor:
    return torch.cat((x, x.new_zeros(added, x.shape[1])))


def _with_columns(x: Tensor, added: int) -> Tensor:
    return torch.cat((x, x.new_zeros(x.shape[0], added)), dim=1)
