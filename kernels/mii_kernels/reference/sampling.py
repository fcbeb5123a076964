"""How logits become a token: bias and penalties, then one draw from what the filters keep.

What a row's token is, so that any other implementation can be checked against this one (n rows, a vocabulary
of V tokens, all per row):

1. x = logits in float32. NaN counts as -inf, +inf as the largest float32.
2. Temperature 0, or no logit above -inf: the token is the argmax of x, the lowest id among equals.
3. z_i = (x_i - max(x)) / temperature in float32: 0 for the best token, below for the others.
   w_i = exp(z_i): probabilities up to a factor.
4. Each filter is a limit on z; a token survives if z_i >= limit, so tokens that tie with the last one kept
   are all kept:
   * top-k: the k-th largest z. (More than k tokens survive a tie.)
   * top-p: the largest limit for which the tokens at or above it, of those that survived top-k, hold at
     least top_p of the survivors' mass.
   * min-p: ln(min_p).
   0 for top_k and min_p, 1 for top_p switch a filter off.
5. u = uniform(seed, position) in [0, 1); the token is the first, in order of ids, for which the running sum
   of the survivors' w exceeds u times their total. Sums are taken in float64.

Nothing depends on another row. On a GPU nothing waits for the device either, and nothing is sorted: limits
come from a radix search. On a CPU the best NEAREST tokens of a row are tried first.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mii_kernels.reference.philox import uniform

BLOCK = 256  # tokens of the vocabulary that are summed together before the running sum
NEAREST = 256  # candidates that a CPU tries before the radix search
RADIX = ((20, 11), (10, 10), (0, 10))  # (shift, bits) of the digits of a non-negative float32, highest first
INFINITY_BITS = 0x7F800000


def greedy(logits: Tensor) -> Tensor:
    """logits [n, vocab], any float -> [n] int64: the argmax, the lowest id among equals."""
    return _argmax(_scores(logits))


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    """One token for each row, as the module's docstring defines.

    logits [n, vocab], any float; temperature, top_p, min_p [n] float32; top_k [n] int32; seeds [n] int64;
    positions [n] integer, the place that the token will take in its sequence -> [n] int64.
    A filter that is None is off for every row.
    """
    scores = _scores(logits)
    best = _argmax(scores)
    z = _scaled(scores, temperature)
    weights = z.exp()
    limit = _limits(z, weights, top_k, top_p, min_p)
    if limit is not None:
        weights = _kept(weights, z, limit)
    drawn, total = _draw(weights, uniform(seeds, positions))
    return torch.where((temperature > 0) & (total > 0), drawn, best)


def add_bias(logits: Tensor, rows: Tensor, token_ids: Tensor, values: Tensor) -> Tensor:
    """logits [n, vocab] + values [m, b] float32 at token_ids [m, b] int64 of rows [m] int64 -> [n, vocab]
    float32. An id that occurs more than once in a row gets the sum; -inf forbids a token."""
    biased = logits.to(torch.float32, copy=True)
    return biased.index_put_((rows[:, None], token_ids), values, accumulate=True)


def apply_penalties(
    logits: Tensor,
    rows: Tensor,
    slots: Tensor,
    counts: Tensor,
    in_prompt: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> Tensor:
    """logits [n, vocab] -> [n, vocab] float32, with the m given rows penalised.

    rows, slots [m] int64: where a row's tokens are counted; counts [slots, vocab] int32, of the output;
    in_prompt [slots, vocab] bool; repetition, presence, frequency [m] float32. First a token seen in prompt
    or output has a positive logit divided, a negative one multiplied by `repetition` (Keskar et al., "CTRL",
    2019, as transformers does); then frequency * count, and presence if count > 0, are subtracted (OpenAI's
    API reference).
    """
    penalised = logits.to(torch.float32, copy=True)
    scores = penalised[rows]  # [m, vocab]
    count = counts[slots]
    factor = torch.where(in_prompt[slots] | (count > 0), repetition[:, None], 1.0)
    scores = torch.where(scores > 0, scores / factor, scores * factor)
    scores -= frequency[:, None] * count + presence[:, None] * (count > 0)
    penalised[rows] = scores
    return penalised


def count_tokens(counts: Tensor, slots: Tensor, token_ids: Tensor) -> None:
    """Adds one to counts [slots, vocab] int32 at (slots [m], token_ids [m]), both int64, in place."""
    counts.index_put_((slots, token_ids), counts.new_ones(()), accumulate=True)


def log_probs(logits: Tensor, token_ids: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Natural log-probabilities under softmax(logits [n, vocab]), computed in float32.

    -> of token_ids [n] int64: [n] float32; of the num_top likeliest, best first: ids [n, num_top] int64 and
    [n, num_top] float32. A NaN logit counts as -inf; a row without a logit above -inf gives -inf.
    """
    logs = _cleaned(logits).log_softmax(-1).nan_to_num_(nan=-math.inf, neginf=-math.inf)
    chosen = logs.gather(-1, token_ids[:, None]).squeeze(-1)
    top = logs.topk(num_top, dim=-1)
    return chosen, top.indices, top.values


def _cleaned(logits: Tensor) -> Tensor:
    largest = torch.finfo(torch.float32).max
    return logits.float().nan_to_num(nan=-math.inf, posinf=largest, neginf=-math.inf)


def _scores(logits: Tensor) -> Tensor:
    """[n, vocab] -> [n, a multiple of BLOCK] float32, filled up with tokens that are never chosen."""
    scores = _cleaned(logits)
    padding = -scores.shape[-1] % BLOCK
    return F.pad(scores, (0, padding), value=-math.inf) if padding else scores


def _blocks(x: Tensor) -> Tensor:
    return x.view(x.shape[0], x.shape[1] // BLOCK, BLOCK)


def _block(x: Tensor, index: Tensor) -> Tensor:
    """x [n, width], index [n, 1] -> [n, BLOCK], the index-th block of each row."""
    return _blocks(x).gather(1, index[:, :, None].expand(-1, -1, BLOCK)).squeeze(1)


def _argmax(scores: Tensor) -> Tensor:
    """Two levels: torch's argmax over a long row is not vectorised on CPUs, its maximum is."""
    block = _blocks(scores).amax(-1).argmax(-1, keepdim=True)
    inside = _block(scores, block).argmax(-1, keepdim=True)
    return (block * BLOCK + inside).squeeze(-1)


def _scaled(scores: Tensor, temperature: Tensor) -> Tensor:
    """z [n, width]. Greedy rows get temperature 1: what is drawn for them is not used."""
    best = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    return scores.sub_(best).div_(torch.where(temperature > 0, temperature, 1.0)[:, None])


def _limits(
    z: Tensor, weights: Tensor, top_k: Tensor | None, top_p: Tensor | None, min_p: Tensor | None
) -> Tensor | None:
    """[n, 1] float32: the strictest of the filters' limits; None if there is no filter."""
    nearest = None if z.is_cuda or (top_k is None and top_p is None) else _nearest(z)
    limit = None
    if top_k is not None:
        off = top_k[:, None] <= 0
        kth = _limit(z, z.new_ones(()).expand_as(z), top_k.double()[:, None], nearest)
        limit = torch.where(off, -math.inf, kth)
        weights = _kept(weights, z, limit)
    if top_p is not None:
        off = top_p[:, None] >= 1
        total = _blocks(weights).sum(-1, dtype=torch.float64).sum(-1, keepdim=True)
        nucleus = _limit(z, weights, torch.where(off, 0.0, top_p[:, None] * total), nearest)
        limit = _stricter(limit, torch.where(off, -math.inf, nucleus))
    if min_p is not None:
        limit = _stricter(limit, min_p[:, None].log())
    return limit


def _stricter(limit: Tensor | None, other: Tensor) -> Tensor:
    return other if limit is None else torch.maximum(limit, other)


def _kept(weights: Tensor, z: Tensor, limit: Tensor) -> Tensor:
    """weights [n, width] where z >= limit [n, 1], elsewhere 0."""
    return torch.where(z >= limit, weights, 0.0)


def _nearest(z: Tensor) -> tuple[Tensor, Tensor]:
    """The NEAREST largest of each row, largest first, and where they are."""
    values, ids = z.topk(min(NEAREST, z.shape[-1]), dim=-1)
    return values, ids


def _limit(z: Tensor, weights: Tensor, target: Tensor, nearest: tuple[Tensor, Tensor] | None) -> Tensor:
    """The largest limit [n, 1] for which the weights of all z >= limit add up to target [n, 1] float64."""
    if nearest is None:
        return _radix_limit(z, weights, target)
    values, ids = nearest
    reached = (weights.gather(1, ids).double().cumsum(-1) < target).sum(-1, keepdim=True)
    limit = values.gather(1, reached.clamp(max=values.shape[-1] - 1))
    rest = (reached.squeeze(-1) == values.shape[-1]).nonzero().squeeze(-1)
    if len(rest):
        limit[rest] = _radix_limit(z[rest], weights[rest], target[rest])
    return limit


def _radix_limit(z: Tensor, weights: Tensor, target: Tensor) -> Tensor:
    """`_limit`, digit by digit: non-negative floats are ordered like their bits, so are the bits of -z.

    A histogram of the weights over the next digit of all -z that share the digits found so far, with one more
    bin for those before and one for those after, says in which digit the running sum reaches the target.
    """
    bits = z.abs().view(torch.int32)
    mass = weights.double()
    found = torch.zeros_like(bits[:, :1])
    for shift, width in RADIX:
        bins = 1 << width
        digit = ((bits - found) >> shift).clamp_(-1, bins).add_(1)  # 0: before, bins + 1: after
        histogram = mass.new_zeros(bits.shape[0], bins + 2).scatter_add_(1, digit.long(), mass)
        reached = (histogram.cumsum(-1) < target).sum(-1, keepdim=True, dtype=torch.int32)
        found = found + ((reached - 1).clamp_(0, bins - 1) << shift)
    return found.clamp_(max=INFINITY_BITS).view(torch.float32).neg()


def _draw(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse CDF of weights [n, width] at u [n] float64 -> token ids [n] int64, total weight [n] float64."""
    sums = _blocks(weights).sum(-1, dtype=torch.float64).cumsum(-1)  # [n, blocks]
    target = u[:, None] * sums[:, -1:]
    block = _first_above(sums, target)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = _block(weights, block).double().cumsum(-1)  # [n, BLOCK]
    # Rounding must not push the target past the block's last weight.
    last = inside[:, -1:]
    token = _first_above(inside, torch.minimum(target - before, last.nextafter(torch.zeros_like(last))))
    return (block * BLOCK + token).squeeze(-1), sums[:, -1]


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """sums [n, width] ascending, target [n, 1] -> [n, 1] int64, the first place where sums > target."""
    return (sums <= target).sum(-1, keepdim=True).clamp_(max=sums.shape[-1] - 1)
