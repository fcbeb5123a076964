"""One token for each row of logits: greedy, or drawn as `reference.sampling` defines it."""

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.arguments import column, launch, served

MAX_VOCAB = 500_000  # what a block's shared memory has room for, 28 bytes for 128 tokens or more


def greedy(library: Library, logits: Tensor) -> Tensor:
    if not served(logits):
        return reference.greedy(logits)
    logits = rows_of(logits)
    out = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    launch(library, "mii_greedy", out, logits, *logits.shape, logits.stride(0), logits.dtype, on=logits)
    return out


def sample(
    library: Library,
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    if not served(logits) or logits.shape[1] > MAX_VOCAB:
        return reference.sample(logits, temperature, top_k, top_p, min_p, seeds, positions)
    logits = rows_of(logits)
    out = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    parameters = (
        column(temperature, torch.float32),
        None if top_k is None else column(top_k, torch.int32),
        *(None if x is None else column(x, torch.float32) for x in (top_p, min_p)),
        *(column(x, torch.int64) for x in (seeds, positions)),
    )
    args = (out, logits, *parameters, *logits.shape, logits.stride(0), logits.dtype)
    launch(library, "mii_sample", *args, on=logits)
    return out


def rows_of(logits: Tensor) -> Tensor:
    """Rows may be any distance apart, elements not."""
    return logits if logits.stride(1) == 1 else logits.contiguous()
