"""The sum over ranks, of all ranks' summands at hand."""

from collections.abc import Sequence

import torch
from torch import Tensor


def all_reduce(parts: Sequence[Tensor]) -> Tensor:
    """The summands by rank, of one shape and dtype: added in that order in float32, rounded once."""
    total = torch.zeros_like(parts[0], dtype=torch.float32)
    for part in parts:
        total += part.float()
    return total.to(parts[0].dtype)
