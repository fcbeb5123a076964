"""What the server asks of an engine and its tokenizer; mii.engine.async_engine.AsyncEngine is one."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from mii.core import EngineInfo, EngineListener, GenerateParams, Health, Output


class Tokenizer(Protocol):
    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str: ...

    def token_bytes(self, token_id: int, /) -> bytes: ...

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        extra: dict[str, Any] | None = None,
    ) -> str: ...


class Backend(Protocol):
    @property
    def info(self) -> EngineInfo: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def health(self) -> Health: ...

    @property
    def listeners(self) -> list[EngineListener]: ...

    def generate(
        self,
        prompt: str | list[int],
        params: GenerateParams,
        *,
        request_id: str | None = None,
        cache_salt: str = "",
    ) -> AsyncGenerator[Output, None]: ...

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    async def stop(self) -> None: ...

    async def wait_dead(self) -> str: ...
