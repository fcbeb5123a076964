"""Long texts on their way to the tokenizer."""

import asyncio

import pytest

from mii.errors import InvalidRequest
from mii.server.encoder import LARGE_TEXT, PromptEncoder


@pytest.fixture
def slow(engine):
    """An engine whose tokenizer waits, and the lengths of the texts that it has begun and finished."""

    class Slow:
        def __init__(self):
            self.info, self.tokenizer = engine.info, engine.tokenizer
            self.info.max_model_len = 10 * LARGE_TEXT
            self.released = asyncio.Event()
            self.begun, self.finished = [], []

        async def encode(self, text, *, add_special_tokens=True):
            self.begun.append(len(text))
            if len(text) > 10:
                await self.released.wait()
            self.finished.append(len(text))
            return [0] * len(text)

    return Slow()


async def test_a_text_that_cannot_fit_is_not_tokenised(slow):
    limit = slow.info.max_model_len * len("</s>")  # the longest token
    with pytest.raises(InvalidRequest, match=f"'prompts': the prompt has {limit + 1} characters") as refused:
        await PromptEncoder(slow).encode("x" * (limit + 1), param="prompts")
    assert (refused.value.param, refused.value.code) == ("prompts", "context_length_exceeded")
    assert slow.begun == []


async def test_large_texts_take_turns_and_hold_nobody_up(slow, until):
    encoder = PromptEncoder(slow)
    large = LARGE_TEXT + 1
    waiting = [asyncio.create_task(encoder.encode("x" * large, param="prompt")) for _ in range(3)]
    await until(lambda: slow.begun)
    assert await encoder.encode("short", param="prompt") == [0] * 5
    assert slow.begun == [large, 5]
    slow.released.set()
    await asyncio.gather(*waiting)
    assert slow.finished == [5, large, large, large]
