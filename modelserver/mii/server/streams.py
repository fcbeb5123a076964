"""Running several generations of one request at once and reading them as one stream, or to the end."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from mii.core import FinishReason, GenerateParams, Output, TokenLogprob
from mii.errors import InvalidRequest
from mii.server.backend import Backend
from mii.server.errors import RequestFailed, Unavailable

MAX_GENERATIONS = 2048  # of one request

OutputStream = AsyncGenerator[Output, None]
Batch = list[tuple[int, Output]]  # (number of the generation, its chunk)


@dataclass
class Result:
    """A whole generation."""

    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def add(self, output: Output) -> None:
        self.pieces.append(output.text)
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs or ()
        self.prompt_logprobs = output.prompt_logprobs or self.prompt_logprobs
        self.finish_reason = output.finish_reason
        self.stop_reason = output.stop_reason
        self.prompt_tokens = output.prompt_tokens
        self.generated_tokens = output.generated_tokens
        self.cached_tokens = output.cached_tokens
        self.seconds = output.seconds
        self.model_seconds = output.model_seconds


def start(
    engine: Backend,
    jobs: Sequence[tuple[list[int], GenerateParams]],
    *,
    request_id: str,
    cache_salt: str = "",
) -> list[OutputStream]:
    """A generation per (prompt, params); nothing runs before it is read."""
    return [
        engine.generate(prompt, params, request_id=f"{request_id}-{i}", cache_salt=cache_salt)
        for i, (prompt, params) in enumerate(jobs)
    ]


def check_count(count: int, *, param: str) -> None:
    """Raises InvalidRequest if one request asks for too many generations."""
    if count > MAX_GENERATIONS:
        raise InvalidRequest(
            f"'{param}': {count} generations in one request; at most {MAX_GENERATIONS} are served",
            param=param,
        )


async def collect(streams: Sequence[OutputStream]) -> list[Result]:
    """Reads all generations to their ends; when one fails, the others are aborted and it raises."""
    results = [Result() for _ in streams]
    async with aclosing(merge(streams)) as batches:
        async for batch in batches:
            for index, output in batch:
                results[index].add(output)
    return results


async def merge(streams: Sequence[OutputStream]) -> AsyncGenerator[Batch, None]:
    """Yields what has arrived, at least one chunk a time, until all generations end.

    Closing it, or a generation's failure, aborts them all.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as outputs:
            async for output in outputs:
                yield [(0, checked(output))]
        return
    queue: asyncio.Queue[tuple[int, Output] | Exception] = asyncio.Queue(maxsize=len(streams))
    readers = [asyncio.create_task(_read(i, stream, queue)) for i, stream in enumerate(streams)]
    open_streams = len(streams)
    try:
        while open_streams:
            batch = [_arrived(await queue.get())]
            while not queue.empty():
                batch.append(_arrived(queue.get_nowait()))
            open_streams -= sum(output.finish_reason is not None for _, output in batch)
            yield batch
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


def checked(output: Output) -> Output:
    """Raises if the engine gave up on the request."""
    if output.finish_reason == "error":
        raise RequestFailed(output.error or "the engine failed on this request")
    if output.finish_reason == "abort":
        raise Unavailable(output.error or "the request was aborted by the server")
    return output


async def _read(
    index: int, stream: OutputStream, queue: asyncio.Queue[tuple[int, Output] | Exception]
) -> None:
    try:
        async with aclosing(stream):
            async for output in stream:
                await queue.put((index, checked(output)))
    except Exception as error:  # handed to the reader of the merged stream
        await queue.put(error)


def _arrived(item: tuple[int, Output] | Exception) -> tuple[int, Output]:
    if isinstance(item, Exception):
        raise item
    return item
