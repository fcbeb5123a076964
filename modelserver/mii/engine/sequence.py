"""One request inside the engine: its tokens, how far they are computed, and where its KV lives."""

from enum import Enum, auto

from mii.config import BLOCK_SIZE
from mii.core import EngineRequest, FinishReason, TokenLogprob


class Status(Enum):
    WAITING = auto()  # not started, or preempted
    RUNNING = auto()  # holds a row and blocks
    FINISHED = auto()


class Sequence:
    """Tokens are counted on three marks:

        token_ids        known on the host: the prompt, then every token read back
        num_in_flight    sampled on the device by a launched step, not read back yet
        num_computed     tokens whose KV a launched step writes

    so `num_tokens - num_computed` tokens are still to be computed.
    """

    __slots__ = (
        "block_table",
        "content_ids",
        "end_ids",
        "fed",
        "finish_reason",
        "max_tokens",
        "num_cached",
        "num_computed",
        "num_in_flight",
        "num_prompt",
        "prompt_logprobs",
        "request",
        "row",
        "sampling",
        "started",
        "status",
        "synced_blocks",
        "token_ids",
    )

    def __init__(self, request: EngineRequest, *, max_tokens: int) -> None:
        """`max_tokens` is the request's, clamped to what fits behind its prompt."""
        self.request = request
        self.sampling = request.sampling
        self.max_tokens = max_tokens
        eos = () if self.sampling.ignore_eos else self.sampling.eos_token_ids
        self.end_ids = frozenset((*eos, *self.sampling.stop_token_ids))
        self.token_ids = list(request.prompt_token_ids)
        self.num_prompt = len(self.token_ids)
        self.num_computed = 0
        self.num_in_flight = 0
        self.num_cached: int | None = None  # prompt tokens found in the prefix cache at first admission
        self.block_table: list[int] = []
        self.content_ids: list[int] = []  # of the leading blocks that the prefix cache knows
        self.synced_blocks = 0  # how many entries of block_table the batch builder has copied
        self.row: int | None = None  # index into every per-sequence array of host and device
        self.fed = False  # the device holds this row's last sampled token
        self.status = Status.WAITING
        self.finish_reason: FinishReason | None = None
        self.started: float | None = None  # monotonic seconds when first scheduled
        self.prompt_logprobs: list[TokenLogprob] = []

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) + self.num_in_flight

    @property
    def num_generated(self) -> int:
        """Produced so far, those in flight included."""
        return self.num_tokens - self.num_prompt

    @property
    def num_pending(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def uses_prefix_cache(self) -> bool:
        """Scoring the prompt needs every hidden state, so nothing may be skipped."""
        return self.sampling.prompt_logprobs is None

    @property
    def awaits_last_result(self) -> bool:
        """Everything that may be sampled has been launched; only reading it back is left."""
        return self.num_in_flight > 0 and self.num_generated >= self.max_tokens

    def reset(self) -> None:
        """Back to waiting after a preemption: the tokens stay, the KV is to be computed again."""
        self.num_computed = 0
        self.block_table = []
        self.content_ids = []
        self.synced_blocks = 0
        self.row = None
        self.fed = False
        self.status = Status.WAITING


def blocks_for(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)
