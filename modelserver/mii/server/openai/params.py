"""From an OpenAI request to what the engine is asked. Pure."""

from collections.abc import Iterable

from mii.core import GenerateParams, SamplingParams
from mii.errors import InvalidRequest
from mii.options import ModelLimits, check_prompt_length, numbered_seed, sampling_temperature
from mii.server.openai.chat_schema import ChatRequest
from mii.server.openai.completion_schema import DEFAULT_MAX_TOKENS, CompletionRequest
from mii.server.openai.fields import GenerationRequest


def completion_params(
    request: CompletionRequest, prompt_tokens: int, limits: ModelLimits, *, index: int
) -> GenerateParams:
    """For generation number `index` of the request, whose prompt has `prompt_tokens` tokens."""
    least = min(1, DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens)
    check_prompt_length(prompt_tokens, limits, param="prompt", new_tokens=least)
    max_tokens = request.max_tokens
    if max_tokens is None:
        max_tokens = min(DEFAULT_MAX_TOKENS, limits.max_model_len - prompt_tokens)
    _check_room(max_tokens, prompt_tokens, limits, "max_tokens")
    prompt_logprobs = request.logprobs if request.echo else None
    return _params(request, max_tokens, request.logprobs, prompt_logprobs, limits, index)


def chat_params(
    request: ChatRequest, prompt_tokens: int, limits: ModelLimits, *, index: int
) -> GenerateParams:
    """The same for chat; without a limit the answer may fill the model's length."""
    check_prompt_length(prompt_tokens, limits, param="messages")
    field = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
    asked = request.max_completion_tokens or request.max_tokens
    max_tokens = asked or limits.max_model_len - prompt_tokens
    _check_room(max_tokens, prompt_tokens, limits, field)
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return _params(request, max_tokens, logprobs, None, limits, index)


def _params(
    request: GenerationRequest,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    limits: ModelLimits,
    index: int,
) -> GenerateParams:
    _check_vocabulary(request, limits)
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens ({min_tokens}) is more than the {max_tokens} tokens allowed", param="min_tokens"
        )
    sampling = SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=sampling_temperature(request.temperature),
        top_k=min(max(0, request.top_k or 0), limits.vocab_size),
        top_p=1.0 if request.top_p is None else request.top_p,
        min_p=request.min_p or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=request.logit_bias or {},
        seed=numbered_seed(request.seed, index),
        eos_token_ids=limits.eos_token_ids,
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=bool(request.ignore_eos),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )
    return GenerateParams(
        sampling=sampling,
        stop=tuple(request.stop or ()),
        include_stop_str=bool(request.include_stop_str_in_output),
        skip_special_tokens=request.skip_special_tokens is not False,
    )


def _check_room(max_tokens: int, prompt_tokens: int, limits: ModelLimits, field: str) -> None:
    room = limits.max_model_len - prompt_tokens
    if max_tokens > room:
        raise InvalidRequest(
            f"{field} ({max_tokens}) is more than the {room} tokens that the model's {limits.max_model_len} "
            f"leave after the prompt's {prompt_tokens}",
            param=field,
            code="context_length_exceeded",
        )


def _check_vocabulary(request: GenerationRequest, limits: ModelLimits) -> None:
    check_token_ids(request.logit_bias or (), limits, "logit_bias")
    check_token_ids(request.stop_token_ids or (), limits, "stop_token_ids")


def check_token_ids(token_ids: Iterable[int], limits: ModelLimits, field: str) -> None:
    """Raises InvalidRequest naming `field` if an id is not of the vocabulary."""
    highest = max(token_ids, default=0)
    if highest >= limits.vocab_size:
        raise InvalidRequest(
            f"{field}: token id {highest} is not in the vocabulary of {limits.vocab_size}", param=field
        )
