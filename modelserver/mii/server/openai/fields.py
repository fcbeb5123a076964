"""The request fields that completions and chat completions share, and the types of fields."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from mii.options import MAX_TEMPERATURE, STRING_OR_LIST, StopString, as_list
from mii.validation import conflict

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_BIASES = 1024  # the sampler's table is as wide as the request with most


def _refuse(value: Any) -> None:
    if value is not None:
        raise PydanticCustomError("unsupported", "not supported by this server; leave it out")


Unsupported = Annotated[None, BeforeValidator(_refuse), WithJsonSchema({"type": "null"})]
Unset = Annotated[Literal[False] | None, "an option of which only the default is served"]
Stops = Annotated[
    list[StopString],
    Field(fail_fast=True, max_length=MAX_STOPS),
    BeforeValidator(as_list),
    WithJsonSchema(STRING_OR_LIST),
]
TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class RequestModel(BaseModel):
    """Fields are checked strictly and unknown ones refused: what is accepted is honoured."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(RequestModel):
    include_usage: bool | None = None
    include_obfuscation: Unset = None
    continuous_usage_stats: Unset = None


class ResponseFormat(RequestModel):
    type: Literal["text"]


class GenerationRequest(RequestModel):
    """OpenAI's fields, then vLLM's common extensions. None is always the same as absent."""

    model: str | None = Field(None, description="default: the model served here")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIASES)] | None = None
    seed: int | None = None
    stop: Stops | None = None
    user: str | None = Field(None, description="accepted; nothing here depends on it")

    top_k: int | None = Field(None, ge=-1, description="0 and -1 are off")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(None, ge=0)
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = Field(None, max_length=MAX_STOPS)
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    cache_salt: str | None = Field(None, description="prefix-cache blocks are shared within one salt only")
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> "GenerationRequest":
        if self.stream_options is not None and not self.stream:
            raise conflict("stream_options", "only allowed when stream is true")
        return self

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)
