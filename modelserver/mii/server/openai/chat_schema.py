"""The body of POST /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from mii.server.openai.fields import MAX_LOGPROBS, GenerationRequest, RequestModel, Unset, Unsupported
from mii.validation import conflict


class TextPart(RequestModel):
    type: Literal["text"]
    text: str


def _content_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    return "parts" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Field(fail_fast=True), Tag("parts")],
    Discriminator(
        _content_kind,
        custom_error_type="content",
        custom_error_message="should be a string or a list of text parts",
    ),
]


class FunctionCall(RequestModel):
    name: str
    arguments: str  # a JSON object


class ToolCall(RequestModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class Message(RequestModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    refusal: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None  # as in OpenAI's own answers

    @model_validator(mode="after")
    def _fits_the_role(self) -> "Message":
        if self.tool_calls and self.role != "assistant":
            raise conflict("tool_calls", "only allowed in a message of the role assistant")
        if self.tool_call_id is not None and self.role != "tool":
            raise conflict("tool_call_id", "only allowed in a message of the role tool")
        if self.content is None and not self.tool_calls:
            raise conflict("content", "required")
        return self


class Function(RequestModel):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Unset = None


class Tool(RequestModel):
    type: Literal["function"]
    function: Function


class ChatRequest(GenerationRequest):
    messages: Annotated[list[Message], Field(fail_fast=True)] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, description="default: what the model's length leaves")
    max_completion_tokens: int | None = Field(None, ge=1, description="the newer name of max_tokens")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = Field(
        None, description="given to the chat template; the answer is text"
    )
    tool_choice: Literal["none", "auto"] | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # Accepted because nothing here contradicts them: hints, and wishes that are granted anyway.
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    store: Unset = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    @model_validator(mode="after")
    def _consistent(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise conflict("top_logprobs", "only allowed when logprobs is true")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise conflict("max_tokens", "contradicts max_completion_tokens; give one of them")
        return self
