"""Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
(SC 2011), in 64-bit integer tensor arithmetic.

A draw is a pure function of (key, counter): no state, no order, so a sequence draws the same numbers
whatever else is in its batch.
"""

from functools import cache

import torch
from torch import Tensor

ROUNDS = 10
MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key's words grow by each round


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """counter [4, n], key [2, n], both int64 with values in [0, 2^32) -> [4, n] int64, values likewise."""
    even, odd = counter[0::2], counter[1::2]  # words 0 and 2, words 1 and 3: [2, n]
    multipliers = _column(MULTIPLIERS, counter.device)
    for round_key in _key_schedule(key):
        product = even * multipliers  # wraps at 2^64, as the unsigned product would
        high, low = (product >> 32) & MASK, product & MASK
        even, odd = high.flip(0) ^ odd ^ round_key, low.flip(0)
    return torch.stack((even[0], odd[0], even[1], odd[1]))


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """One draw for each (seed, position): seeds [n] int64 (64 bits, sign ignored), positions [n] integer
    -> [n] float64 in [0, 1), a multiple of 2^-32.

    The seed is the key and the position the counter, low word first; of the four words that come out,
    the first is used.
    """
    low_position = positions.long() & MASK
    high_position = (positions.long() >> 32) & MASK
    zero = torch.zeros_like(low_position)
    counter = torch.stack((low_position, high_position, zero, zero))
    key = torch.stack((seeds & MASK, (seeds >> 32) & MASK))
    return philox4x32(counter, key)[0].double() * 2.0**-32


def _key_schedule(key: Tensor) -> Tensor:
    """key [2, n] -> [ROUNDS, 2, n]."""
    rounds = torch.arange(ROUNDS, device=key.device)[:, None, None]
    return (key + rounds * _column(WEYL, key.device)) & MASK


@cache
def _column(words: tuple[int, ...], device: torch.device) -> Tensor:
    """[len(words), 1] int64; made once for a device, as making it waits for a GPU."""
    return torch.tensor(words, device=device)[:, None]
