"""DeepSpeed-MII's generate options: names, defaults, and what they ask of the engine.

The one place that knows them; mii.pipeline, POST /mii/{deployment} and gRPC all come through here.
"""

import secrets
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from mii.core import EngineInfo, GenerateParams, SamplingParams
from mii.errors import InvalidRequest, UnknownArgument
from mii.validation import first_problem

MAX_STOPS = 64
MAX_STOP_LENGTH = 1024  # characters
MAX_TEMPERATURE = 1e6  # beyond this every token is as likely as any other, and float32 ends at 3e38
GREEDY_BELOW = 1e-5  # a temperature so small that dividing by it overflows
SEED_MASK = (1 << 63) - 1  # seeds travel as signed 64-bit integers


class ModelLimits(NamedTuple):
    """What a request must respect."""

    max_model_len: int  # tokens of prompt and output together
    vocab_size: int
    eos_token_ids: tuple[int, ...]

    @classmethod
    def of(cls, info: EngineInfo, eos_token_ids: Iterable[int]) -> "ModelLimits":
        """Of a loaded engine and its tokenizer, whose ids may go beyond the model's."""
        known = tuple(token for token in eos_token_ids if token < info.vocab_size)
        return cls(info.max_model_len, info.vocab_size, known)


def as_list(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return [value] if isinstance(value, str) else value


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
STRING_OR_LIST = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


class MIIOptions(BaseModel):
    """The options of one generate call, validated. Lengths are in tokens."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    max_length: int = Field(1024, gt=0, description="prompt and output together")
    max_new_tokens: int | None = Field(None, gt=0, description="default: max_length less the prompt")
    min_new_tokens: int = Field(0, ge=0)
    ignore_eos: bool = False
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int | None = Field(None, gt=0)
    temperature: float | None = Field(None, gt=0, le=MAX_TEMPERATURE)
    do_sample: bool = True
    return_full_text: bool = False
    stop: Annotated[
        list[StopString], Field(fail_fast=True), BeforeValidator(as_list), WithJsonSchema(STRING_OR_LIST)
    ] = Field(default=[], max_length=MAX_STOPS)
    stream: bool = False
    seed: int | None = Field(None, description="same seed and prompts, same text; default: drawn at random")

    def to_params(self, prompt_length: int, limits: ModelLimits, *, index: int = 0) -> GenerateParams:
        """What the engine needs to know for prompt number `index` of the call.

        Raises InvalidRequest when the lengths contradict each other, the prompt or the model.
        """
        max_tokens = self._max_tokens(prompt_length, limits)
        if self.min_new_tokens > max_tokens:
            raise InvalidRequest(
                f"min_new_tokens ({self.min_new_tokens}) is more than the {max_tokens} tokens that may "
                f"follow the prompt's {prompt_length}",
                param="min_new_tokens",
            )
        sampling = SamplingParams(
            max_tokens=max_tokens,
            min_tokens=self.min_new_tokens,
            temperature=sampling_temperature(self.temperature) if self.do_sample else 0.0,
            top_k=min(self.top_k or 0, limits.vocab_size),
            top_p=self.top_p,
            seed=numbered_seed(self.seed, index),
            eos_token_ids=limits.eos_token_ids,
            ignore_eos=self.ignore_eos,
        )
        return GenerateParams(sampling=sampling, stop=tuple(self.stop))

    def _max_tokens(self, prompt_length: int, limits: ModelLimits) -> int:
        check_prompt_length(prompt_length, limits, param="prompts")
        if self.max_new_tokens is not None and "max_length" not in self.model_fields_set:
            room = limits.max_model_len - prompt_length
            if self.max_new_tokens > room:
                raise InvalidRequest(
                    f"max_new_tokens ({self.max_new_tokens}) is more than the {room} tokens that the model's "
                    f"{limits.max_model_len} leave after the prompt's {prompt_length}",
                    param="max_new_tokens",
                )
            return self.max_new_tokens
        room = self._length_limit(limits) - prompt_length
        if room <= 0:
            raise InvalidRequest(
                f"max_length ({self._length_limit(limits)}) must exceed the prompt's {prompt_length} tokens; "
                "raise it, or give max_new_tokens alone",
                param="max_length",
            )
        return min(room, self.max_new_tokens or room)

    def _length_limit(self, limits: ModelLimits) -> int:
        if "max_length" not in self.model_fields_set:
            return min(self.max_length, limits.max_model_len)
        if self.max_length > limits.max_model_len:
            raise InvalidRequest(
                f"max_length ({self.max_length}) is more than the model's {limits.max_model_len} tokens",
                param="max_length",
            )
        return self.max_length


def mii_options(kwargs: Mapping[str, Any]) -> MIIOptions:
    """Validates generate options. Raises UnknownArgument or InvalidRequest, both naming the option."""
    try:
        return MIIOptions.model_validate(dict(kwargs))
    except ValidationError as error:
        problem = first_problem(error, kwargs)
        if problem.unknown:
            known = ", ".join(MIIOptions.model_fields)
            raise UnknownArgument(f"unknown option '{problem.param}'; there are: {known}") from None
        raise InvalidRequest(problem.message, param=problem.param) from None


def check_prompt_length(length: int, limits: ModelLimits, *, param: str, new_tokens: int = 1) -> None:
    """Raises InvalidRequest when the prompt is empty or leaves no room for `new_tokens` more."""
    if length == 0:
        raise InvalidRequest(f"'{param}': the prompt is empty", param=param)
    if length + new_tokens > limits.max_model_len:
        raise InvalidRequest(
            f"'{param}': the prompt has {length} tokens; the model takes at most {limits.max_model_len} of "
            "prompt and output together",
            param=param,
            code="context_length_exceeded",
        )


def sampling_temperature(temperature: float | None) -> float:
    """1 when absent; 0 (greedy) when too small to divide by."""
    if temperature is None:
        return 1.0
    return temperature if temperature >= GREEDY_BELOW else 0.0


def numbered_seed(seed: int | None, index: int) -> int:
    """The seed of sequence `index` of a request; a random one where the request has none."""
    start = secrets.randbits(63) if seed is None else seed
    return (start + index) & SEED_MASK
