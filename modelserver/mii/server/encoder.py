"""From a prompt's text to its token ids, so that no prompt, however long, holds up the others."""

import asyncio
from contextlib import nullcontext

from mii.errors import InvalidRequest
from mii.server.backend import Backend

LARGE_TEXT = 64 * 1024  # characters; what is longer takes turns, so that a thread is left for the others


class PromptEncoder:
    """The engine's tokenizer behind a check that costs nothing."""

    def __init__(self, engine: Backend) -> None:
        info, token_bytes = engine.info, engine.tokenizer.token_bytes
        longest = max(len(token_bytes(token_id)) for token_id in range(info.vocab_size))
        self._engine = engine
        self._limit = info.max_model_len * longest  # characters; each has at least one byte
        self._turn = asyncio.Lock()

    async def encode(self, text: str, *, param: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids. Raises InvalidRequest naming `param`, unread, if the text cannot fit the model."""
        if len(text) > self._limit:
            raise InvalidRequest(
                f"'{param}': the prompt has {len(text)} characters; the model takes at most "
                f"{self._engine.info.max_model_len} tokens of prompt and output together",
                param=param,
                code="context_length_exceeded",
            )
        async with self._turn if len(text) > LARGE_TEXT else nullcontext():
            return await self._engine.encode(text, add_special_tokens=add_special_tokens)
