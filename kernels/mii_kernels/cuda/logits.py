"""What happens to logits before a token is drawn, and to the counts after it."""

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.arguments import column, launch, served
from mii_kernels.cuda.sampling import rows_of


def add_bias(library: Library, logits: Tensor, rows: Tensor, token_ids: Tensor, values: Tensor) -> Tensor:
    if not served(logits):
        return reference.add_bias(logits, rows, token_ids, values)
    logits = rows_of(logits)
    out = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    biases = (column(rows, torch.int64), column(token_ids, torch.int64), column(values, torch.float32))
    sizes = (*logits.shape, logits.stride(0), *token_ids.shape)
    launch(library, "mii_add_bias", out, logits, *biases, *sizes, logits.dtype, on=logits)
    return out


def apply_penalties(
    library: Library,
    logits: Tensor,
    rows: Tensor,
    slots: Tensor,
    counts: Tensor,
    in_prompt: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> Tensor:
    if not served(logits) or not (counts.is_contiguous() and in_prompt.is_contiguous()):
        return reference.apply_penalties(
            logits, rows, slots, counts, in_prompt, repetition, presence, frequency
        )
    logits = rows_of(logits)
    out = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    state = (column(rows, torch.int64), column(slots, torch.int64), counts, in_prompt)
    penalties = (column(x, torch.float32) for x in (repetition, presence, frequency))
    sizes = (*logits.shape, logits.stride(0), len(rows))
    launch(library, "mii_apply_penalties", out, logits, *state, *penalties, *sizes, logits.dtype, on=logits)
    return out


def count_tokens(library: Library, counts: Tensor, slots: Tensor, token_ids: Tensor) -> None:
    if not counts.is_contiguous():
        reference.count_tokens(counts, slots, token_ids)
        return
    columns = (column(slots, torch.int64), column(token_ids, torch.int64))
    launch(library, "mii_count_tokens", counts, *columns, len(slots), counts.shape[1], on=counts)
