"""The vocabulary that server and engine share: what is asked, what comes back, what is measured.

These are also the messages between the API process and the engine process (msgspec structs, sent as
msgpack), so everything here is plain data. No torch.
"""

from typing import Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length", "abort", "error"]


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen and when a request ends, on token level. Validated at the edge."""

    max_tokens: int  # new tokens at most; 0 is allowed (score the prompt only)
    min_tokens: int = 0  # EOS and stop tokens are masked until this many new tokens exist
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output, as in transformers
    presence_penalty: float = 0.0  # over output, as in OpenAI's API
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int = 0  # always set by the caller; the same seed and prompt give the same tokens
    eos_token_ids: tuple[int, ...] = ()  # the model's, all of them
    stop_token_ids: tuple[int, ...] = ()  # the request's own; not silenced by ignore_eos
    ignore_eos: bool = False
    logprobs: int | None = None  # alternatives per new token; 0 is the chosen token alone
    prompt_logprobs: int | None = None  # the same for the prompt's tokens (from the second on)


class EngineRequest(msgspec.Struct, frozen=True, tag="add"):
    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    cache_salt: str = ""  # requests share prefix-cache blocks only within one salt


class AbortRequest(msgspec.Struct, frozen=True, tag="abort"):
    request_id: str


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability (natural log, of the unscaled model distribution) of one token and its rivals."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]  # best first; may or may not contain token_id


class EngineOutput(msgspec.Struct, omit_defaults=True):
    """What one engine step adds to one request."""

    request_id: str
    token_ids: list[int]  # new since the last output; includes the EOS or stop token that ended it
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] | None = None  # one per token_ids entry
    prompt_logprobs: list[TokenLogprob] | None = None  # once, for prompt tokens 1..n-1
    cached_tokens: int = 0  # prompt tokens served by the prefix cache
    model_seconds: float = 0.0  # with finish_reason: from first scheduled to finished
    error: str | None = None  # with finish_reason "error"


class EngineStats(msgspec.Struct, kw_only=True):
    """Gauges are of now, counters since start."""

    num_running: int = 0
    num_waiting: int = 0
    kv_cache_usage: float = 0.0  # 0..1, blocks in use by requests
    prefix_cache_queries: int = 0  # tokens looked up
    prefix_cache_hits: int = 0  # tokens found
    num_preemptions: int = 0
    steps: int = 0
    iteration_tokens: int = 0  # of the last step
    sent_at: float = 0.0  # time.monotonic() when they left the engine; one clock for all processes of a host


class StepOutputs(msgspec.Struct, tag="step"):
    outputs: list[EngineOutput]
    stats: EngineStats


class EngineInfo(msgspec.Struct, kw_only=True, tag="ready"):
    """What a loaded engine is; served as /v1/info."""

    model: str
    revision: str
    device: str  # "cpu" or the GPU's name
    dtype: str
    tensor_parallel: int
    vocab_size: int
    max_model_len: int
    block_size: int
    kv_blocks: int
    token_budget: int
    load_seconds: float
    prefill_tokens_per_second: float


class GenerateParams(msgspec.Struct, frozen=True, kw_only=True):
    """A request's options at text level: `sampling` for the engine, the rest for the detokeniser."""

    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    include_stop_str: bool = False
    skip_special_tokens: bool = True


class Output(msgspec.Struct, kw_only=True):
    """One chunk of a generation as the server sees it: `text` and `token_ids` are new since the last one."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None  # the stop string or token that ended it
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0  # so far
    cached_tokens: int = 0
    error: str | None = None
    seconds: float = 0.0  # with finish_reason: from arrival to now
    model_seconds: float = 0.0  # with finish_reason: of these, in the engine


class RequestStats(msgspec.Struct, kw_only=True):
    """A finished request, for metrics. Times are seconds since arrival."""

    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    finish_reason: FinishReason
    first_token: float | None
    end_to_end: float


class EngineListener(Protocol):
    """Who wants to measure (server/metrics.py). Called on the event loop; must be quick."""

    def on_step(self, stats: EngineStats) -> None: ...

    def on_tokens(self, *, first: bool, seconds: float, count: int) -> None:
        """`seconds` since arrival when `first`, else since this request's previous token(s)."""

    def on_finished(self, stats: RequestStats) -> None: ...


class Health(msgspec.Struct, frozen=True):
    alive: bool
    reason: str = ""
