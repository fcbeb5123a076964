"""The body of POST /v1/completions."""

from collections.abc import Sequence
from typing import Annotated, Any, cast

from pydantic import Discriminator, Field, Tag, model_validator

from mii.server.openai.fields import MAX_LOGPROBS, GenerationRequest, TokenId, Unsupported
from mii.validation import conflict

DEFAULT_MAX_TOKENS = 16  # OpenAI's

Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]


def _prompt_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list):
        return None
    first = value[0] if value else ""
    return {int: "ids", list: "id_lists", str: "texts"}.get(type(first))


Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[Text], Field(fail_fast=True, min_length=1), Tag("texts")]
    | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1), Tag("id_lists")],
    Discriminator(
        _prompt_kind,
        custom_error_type="prompt",
        custom_error_message="should be a string, a list of strings, a list of token ids or a list of those",
    ),
]


class CompletionRequest(GenerationRequest):
    prompt: Prompt
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    best_of: int | None = Field(None, description="must equal n")
    suffix: Unsupported = None

    @model_validator(mode="after")
    def _best_of_is_n(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != self.choices:
            raise conflict("best_of", f"must equal n ({self.choices}); choosing among more is not supported")
        return self

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, one or many, as text or token ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return cast(Sequence[str | list[int]], self.prompt)
