"""The engine as the event loop sees it: an asyncio façade over the engine's own process.

generate() ── tokenise (thread) ── check ──> PUSH ═ipc═> engine process
Output <── detokenise <── reader task <── PULL <═ipc═
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from uuid import uuid4

import msgspec

from mii.config import EngineConfig
from mii.core import (
    AbortRequest,
    EngineInfo,
    EngineListener,
    EngineOutput,
    EngineStats,
    GenerateParams,
    Health,
    Output,
    StepOutputs,
)
from mii.engine.link import EngineLink, ending
from mii.engine.messages import Failed
from mii.engine.request import make_request
from mii.engine.stream import Stream
from mii.engine.tokenizing import tokenizer_for
from mii.errors import EngineDead, MIIError
from mii.models.tokenizer import Tokenizer

_LAST_WORDS_SECONDS = 0.5

log = logging.getLogger(__name__)


class AsyncEngine:
    """One engine process and its open requests. Make it with `await AsyncEngine.start(config)`."""

    def __init__(
        self, config: EngineConfig, tokenizer: Tokenizer, link: EngineLink, info: EngineInfo
    ) -> None:
        self.tokenizer = tokenizer
        self.info = info
        self.stats = EngineStats()
        self.listeners: list[EngineListener] = []
        self._config = config
        self._link = link
        self._streams: dict[str, Stream] = {}
        self._dead: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._last_sign = time.monotonic()
        self._tasks = [
            asyncio.create_task(work) for work in (self._read(), self._watch_exit(), self._watch_pulse())
        ]

    @classmethod
    async def start(cls, config: EngineConfig) -> "AsyncEngine":
        """Starts the process and waits until its model is loaded. Raises ModelLoadError with the reason."""
        link = await EngineLink.open(config)
        try:
            tokenizer = await asyncio.to_thread(tokenizer_for, config)
            info = await link.ready()
        except BaseException:
            await link.close()
            raise
        return cls(config, tokenizer, link, info)

    @property
    def num_open(self) -> int:
        """Requests that have not ended."""
        return len(self._streams)

    @property
    def health(self) -> Health:
        return Health(False, self._dead.result()) if self._dead.done() else Health(True)

    async def wait_dead(self) -> str:
        """Returns the reason once the engine has died or stalled."""
        return await asyncio.shield(self._dead)

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)

    async def generate(
        self,
        prompt: str | list[int],
        params: GenerateParams,
        *,
        request_id: str | None = None,
        cache_salt: str = "",
    ) -> AsyncGenerator[Output, None]:
        """Yields chunks as they come; the last has a finish_reason. Closing the iterator aborts the request.

        Raises InvalidRequest before the first chunk, EngineDead at any time.
        """
        arrival = time.monotonic()
        token_ids = await self.encode(prompt) if isinstance(prompt, str) else prompt
        request_id = request_id or uuid4().hex
        request = make_request(
            request_id, token_ids, params, self.info, self.tokenizer, cache_salt=cache_salt
        )
        if self._dead.done():
            raise EngineDead(self._dead.result())
        stream = Stream(request, params, self.tokenizer, self.listeners, arrival)
        self._streams[request_id] = stream
        try:
            await self._send(request)
            async for output in stream:
                yield output
        finally:
            if self._streams.pop(request_id, None) is not None and not stream.engine_done:
                stream.abandon()
                await self._abort(request_id)

    async def stop(self) -> None:
        """Ends the engine process; open requests end with EngineDead."""
        self._die("the engine was stopped")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    async def _abort(self, request_id: str) -> None:
        if not self._dead.done():
            with contextlib.suppress(EngineDead):
                await self._send(AbortRequest(request_id))

    async def _send(self, message: msgspec.Struct) -> None:
        """Raises EngineDead: a socket whose other end is gone would wait for ever."""
        sending = asyncio.ensure_future(self._link.send(message))
        await asyncio.wait((sending, self._dead), return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            sending.cancel()
            raise EngineDead(self._dead.result())
        sending.result()

    async def _read(self) -> None:
        try:
            await self._read_all()
        except Exception as error:  # a fault of ours must not leave every client waiting
            log.exception("cannot deliver the engine's results")
            self._die(f"its results cannot be delivered: {type(error).__name__}: {error}")
            self._link.kill()

    async def _read_all(self) -> None:
        while True:
            message = await self._link.receive()
            self._last_sign = time.monotonic()
            if isinstance(message, StepOutputs):
                await self._deliver(message)
            elif isinstance(message, Failed):
                self._die(f"the engine failed: {message.error}")
                return

    async def _deliver(self, step: StepOutputs) -> None:
        self.stats = step.stats
        for listener in self.listeners:
            listener.on_step(step.stats)
        for output in step.outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None and not stream.closed:
                await self._hand_over(stream, output)

    async def _hand_over(self, stream: Stream, output: EngineOutput) -> None:
        """A fault in one request's text ends that request alone."""
        try:
            stream.put(output)
        except Exception as error:
            log.exception("cannot make text of request %s", output.request_id)
            stream.fail(MIIError(f"the answer cannot be put into text: {type(error).__name__}: {error}"))
            await self._abort(output.request_id)
        if stream.closed and not stream.engine_done:  # a stop string, which only the text shows
            stream.engine_done = True
            await self._abort(output.request_id)

    async def _watch_exit(self) -> None:
        code = await self._link.wait()
        if code >= 0:  # it went by itself: its last words may still be on their way
            await asyncio.wait((self._dead,), timeout=_LAST_WORDS_SECONDS)
        self._die(f"the engine process {ending(code)}")

    async def _watch_pulse(self) -> None:
        limit = self._config.heartbeat_timeout
        while True:
            left = self._last_sign + limit - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(left)
        self._die(f"the engine has not finished a step for {limit:g} s")
        self._link.kill()

    def _die(self, reason: str) -> None:
        if not self._dead.done():
            self._dead.set_result(reason)
        for stream in self._streams.values():
            stream.fail(EngineDead(self._dead.result()))
