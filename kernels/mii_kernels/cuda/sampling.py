"""Tokens from rows of logits, greedy or drawn as `reference.sampling` defines it, and log-probabilities."""

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.arguments import column, launch, served

MAX_VOCAB = 500_000  # what a block's shared memory has room for, 28 bytes for 128 tokens or more
MAX_TOP = 64  # likeliest tokens that mii_log_probs finds


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


def log_probs(
    library: Library, logits: Tensor, token_ids: Tensor, num_top: int
) -> tuple[Tensor, Tensor, Tensor]:
    if not served(logits) or logits.shape[1] > MAX_VOCAB or num_top > MAX_TOP:
        return reference.log_probs(logits, token_ids, num_top)
    logits = rows_of(logits)
    n, device = len(logits), logits.device
    chosen = torch.empty(n, dtype=torch.float32, device=device)
    top_ids = torch.empty((n, num_top), dtype=torch.int64, device=device)
    top = torch.empty((n, num_top), dtype=torch.float32, device=device)
    ids, sizes = column(token_ids, torch.int64), (*logits.shape, logits.stride(0), num_top)
    launch(library, "mii_log_probs", chosen, top_ids, top, logits, ids, *sizes, logits.dtype, on=logits)
    return chosen, top_ids, top


def rows_of(logits: Tensor) -> Tensor:
    """Rows may be any distance apart, elements not."""
    return logits if logits.stride(1) == 1 else logits.contiguous()
