"""One open request on the API side: engine outputs in, text chunks out."""

import asyncio
import time
from collections.abc import AsyncIterator

from mii.core import (
    EngineListener,
    EngineOutput,
    EngineRequest,
    FinishReason,
    GenerateParams,
    Output,
    RequestStats,
)
from mii.engine.detokenizer import Detokenizer
from mii.models.tokenizer import Tokenizer


class Stream:
    """Fed by the reader task, drained by one consumer; ends after the chunk with a finish_reason."""

    def __init__(
        self,
        request: EngineRequest,
        params: GenerateParams,
        tokenizer: Tokenizer,
        listeners: list[EngineListener],
        arrival: float,
    ) -> None:
        """`arrival`: monotonic seconds."""
        self.engine_done = False  # the engine has ended the request, or was told to
        self.closed = False  # nothing more comes out after what is queued
        self._sampling = request.sampling
        self._num_prompt = len(request.prompt_token_ids)
        self._detokenizer = Detokenizer.of(request, params, tokenizer)
        self._listeners = listeners
        self._arrival = arrival
        self._first: float | None = None
        self._last = arrival
        self._generated = 0
        self._queue: asyncio.Queue[Output | Exception] = asyncio.Queue()

    def put(self, output: EngineOutput) -> None:
        now = time.monotonic()
        self._observe(len(output.token_ids), now)
        piece = self._detokenizer.push(output.token_ids)
        text, finish = piece.text, output.finish_reason
        stop_reason: str | int | None = self._stop_token(output)
        if piece.stop is not None:
            finish, stop_reason = "stop", piece.stop
        elif finish is not None:
            text += self._detokenizer.flush()
        self.engine_done = output.finish_reason is not None
        chunk = Output(
            text=text,
            token_ids=output.token_ids,
            finish_reason=finish,
            stop_reason=stop_reason,
            logprobs=output.logprobs,
            prompt_logprobs=output.prompt_logprobs,
            prompt_tokens=self._num_prompt,
            generated_tokens=self._generated,
            cached_tokens=output.cached_tokens,
            error=output.error,
        )
        if finish is not None:
            self._finish(chunk, finish, output, now)
        self._queue.put_nowait(chunk)

    def fail(self, error: Exception) -> None:
        if not self.closed:
            self.closed = self.engine_done = True
            self._queue.put_nowait(error)

    def abandon(self) -> None:
        """Nobody reads on."""
        if not self.closed:
            self.closed = True
            self._report("abort", time.monotonic())

    async def __aiter__(self) -> AsyncIterator[Output]:
        while True:
            item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            yield item
            if item.finish_reason is not None:
                return

    def _observe(self, count: int, now: float) -> None:
        if not count:
            return
        self._generated += count
        first = self._first is None
        if first:
            self._first = now
        since = self._arrival if first else self._last
        for listener in self._listeners:
            listener.on_tokens(first=first, seconds=now - since, count=count)
        self._last = now

    def _stop_token(self, output: EngineOutput) -> int | None:
        """The request's own stop token, if it ended on one; an EOS is no surprise and is not reported."""
        last = output.token_ids[-1] if output.token_ids else None
        return last if output.finish_reason == "stop" and last in self._sampling.stop_token_ids else None

    def _finish(self, chunk: Output, reason: FinishReason, output: EngineOutput, now: float) -> None:
        self.closed = True
        chunk.seconds = now - self._arrival
        # A stop string is found here, not in the engine, which then has measured nothing.
        chunk.model_seconds = output.model_seconds or now - self._arrival
        self._report(reason, now, cached_tokens=output.cached_tokens)

    def _report(self, reason: FinishReason, now: float, *, cached_tokens: int = 0) -> None:
        stats = RequestStats(
            prompt_tokens=self._num_prompt,
            generated_tokens=self._generated,
            cached_tokens=cached_tokens,
            finish_reason=reason,
            first_token=None if self._first is None else self._first - self._arrival,
            end_to_end=now - self._arrival,
        )
        for listener in self._listeners:
            listener.on_finished(stats)
