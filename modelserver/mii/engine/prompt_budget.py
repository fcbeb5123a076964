"""How many tokens of prompts go into a step beside its decodes.

Every token of a prompt keeps every decode of its step waiting. So the more decodes there are, the fewer
prompt tokens come between two of theirs; but where many prompts wait, throughput is what all of them need.
"""

from collections.abc import Iterable

from mii.engine.sequence import Sequence

WAITS = 1 << 17  # prompt tokens times decodes that a step may have
LEAST_PROMPT_TOKENS = 2048  # that a step may have in any case: fewer do not fill a GPU
BACKLOG_STEPS = 3  # what takes longer to work off, in whole steps, is worked off in whole steps


def prompt_budget(token_budget: int, decodes: int, waiting: int) -> int:
    """For a step with so many decodes, while prompts of `waiting` tokens wait."""
    if not decodes or waiting > BACKLOG_STEPS * token_budget:
        return token_budget
    return min(token_budget, max(LEAST_PROMPT_TOKENS, WAITS // decodes))


def backlog(waiting: Iterable[Sequence], token_budget: int) -> int:
    """Tokens of the waiting prompts; of many prompts, counted until it is known that they are."""
    tokens, many = 0, BACKLOG_STEPS * token_budget
    for sequence in waiting:
        tokens += sequence.num_pending
        if tokens > many:
            break
    return tokens
