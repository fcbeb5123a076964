"""The last check before the engine: what is wrong with a request is said here, where the caller hears it."""

import msgspec

from mii.core import EngineInfo, EngineRequest, GenerateParams
from mii.engine.sequence import blocks_for
from mii.errors import InvalidRequest
from mii.models.tokenizer import Tokenizer


def make_request(
    request_id: str,
    prompt_token_ids: list[int],
    params: GenerateParams,
    info: EngineInfo,
    tokenizer: Tokenizer,
    *,
    cache_salt: str = "",
) -> EngineRequest:
    """Completes the sampling parameters with the model's EOS ids. Raises InvalidRequest naming the field."""
    sampling = params.sampling
    _check_length(len(prompt_token_ids), sampling.max_tokens, info)
    _check_ids("prompt", prompt_token_ids, info)
    _check_ids("logit_bias", list(sampling.logit_bias), info)
    _check_ids("stop_token_ids", list(sampling.stop_token_ids), info)
    eos = tuple(token for token in tokenizer.eos_token_ids if token < info.vocab_size)
    sampling = msgspec.structs.replace(sampling, eos_token_ids=sampling.eos_token_ids or eos)
    return EngineRequest(request_id, prompt_token_ids, sampling, cache_salt)


def _check_length(prompt: int, new: int, info: EngineInfo) -> None:
    if prompt == 0:
        raise InvalidRequest("the prompt has no tokens", param="prompt")
    if prompt + min(1, new) > info.max_model_len:
        raise InvalidRequest(
            f"the prompt has {prompt} tokens and needs room for at least one more, "
            f"but this model's context length is {info.max_model_len}",
            param="prompt",
            code="context_length_exceeded",
        )
    total = min(prompt + new, info.max_model_len)
    if blocks_for(total) > info.kv_blocks:
        raise InvalidRequest(
            f"{total} tokens need {blocks_for(total)} KV blocks; this server has {info.kv_blocks}",
            param="max_tokens",
        )


def _check_ids(param: str, token_ids: list[int], info: EngineInfo) -> None:
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < info.vocab_size):
        wrong = next(token for token in token_ids if not 0 <= token < info.vocab_size)
        raise InvalidRequest(f"token id {wrong} is outside of 0..{info.vocab_size - 1}", param=param)
