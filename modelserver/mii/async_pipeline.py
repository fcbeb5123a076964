"""Generation on an event loop, with the engine in a process of its own. (Made by `mii.async_pipeline`.)

    async with mii.async_pipeline("org/model") as pipe:
        responses = await pipe(["one prompt", "another"], max_new_tokens=64)
        async for piece in pipe.stream("a prompt"):
            print(piece, end="")

Calls may run at the same time: the engine batches them.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mii.config import EngineConfig
from mii.core import GenerateParams, Output
from mii.errors import MIIError
from mii.options import MIIOptions
from mii.pipelines import check_options, check_prompts, limits
from mii.response import Response, finish_reason

if TYPE_CHECKING:
    from mii.engine.async_engine import AsyncEngine


class MIIAsyncPipeline:
    """A model that is loaded by `async with` (or `await pipe.start()`) and freed at its end (`destroy`)."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._engine: AsyncEngine | None = None

    async def start(self) -> Self:
        """Loads the model. Raises ModelLoadError with the reason."""
        from mii.engine.async_engine import AsyncEngine

        self._engine = await AsyncEngine.start(self._config)
        return self

    async def destroy(self) -> None:
        """Ends the engine process; open calls end with EngineDead, later ones with RuntimeError."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.stop()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.destroy()

    async def __call__(self, prompts: str | Sequence[str], **options: Any) -> list[Response]:
        """One Response per prompt, in order. When one fails, the others are aborted and it raises."""
        checked, texts = check_options(options), check_prompts(prompts)
        encoded = [await self._encode(text, checked, index) for index, text in enumerate(texts)]
        answers = await _all_or_none([self._generate(*one) for one in encoded])
        if checked.return_full_text:
            return [_with_prompt(text, answer) for text, answer in zip(texts, answers, strict=True)]
        return answers

    async def stream(self, prompt: str, **options: Any) -> AsyncIterator[Response]:
        """Pieces as they come; each holds the new text. Leaving the loop early aborts the generation."""
        checked = check_options(options)
        token_ids, params = await self._encode(prompt, checked, 0)
        lead = prompt if checked.return_full_text else ""
        outputs: Any = self._alive().generate(token_ids, params)
        async with aclosing(outputs):
            async for output in outputs:
                piece = _piece(output)
                yield _with_prompt(lead, piece) if lead else piece
                lead = ""

    async def _encode(self, text: str, options: MIIOptions, index: int) -> tuple[list[int], GenerateParams]:
        engine = self._alive()
        token_ids = await engine.encode(text)
        return token_ids, options.to_params(
            len(token_ids), limits(engine.info, engine.tokenizer), index=index
        )

    async def _generate(self, token_ids: list[int], params: GenerateParams) -> Response:
        text: list[str] = []
        async for output in self._alive().generate(token_ids, params):
            piece = _piece(output)
            text.append(piece.generated_text)
        return Response("".join(text), piece.prompt_length, piece.generated_length, piece.finish_reason)

    def _alive(self) -> "AsyncEngine":
        if self._engine is None:
            raise RuntimeError(
                "this pipeline is not loaded: use it inside `async with mii.async_pipeline(…)`"
            )
        return self._engine


def _piece(output: Output) -> Response:
    if output.error is not None:
        raise MIIError(f"the engine gave up: {output.error}")
    return Response(
        output.text, output.prompt_tokens, output.generated_tokens, finish_reason(output.finish_reason)
    )


async def _all_or_none(calls: Sequence[Coroutine[Any, Any, Response]]) -> list[Response]:
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _with_prompt(prompt: str, answer: Response) -> Response:
    text = prompt + answer.generated_text
    return Response(text, answer.prompt_length, answer.generated_length, answer.finish_reason)
