"""A scriptable engine without a model, and servers in front of it.

The fake's tokens are bytes: token 97 is "a". 256 is a special token, 257 is EOS.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import openai
import pytest

from mii.core import (
    EngineInfo,
    EngineListener,
    EngineStats,
    GenerateParams,
    Health,
    Output,
    RequestStats,
    TokenLogprob,
)
from mii.errors import EngineDead, InvalidRequest
from mii.models.chat_messages import plain_messages
from mii.server.serve import Server
from mii_spec.launch import ServerArgs

SPECIAL, EOS, VOCABULARY = 256, 257, 258
MODEL = "org/tiny"
DEPLOYMENT = "tiny-deployment"


class FakeTokenizer:
    eos_token_ids = (EOS,)
    special_ids = frozenset({SPECIAL, EOS})

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [SPECIAL] * text.startswith("<s>") + list(text.removeprefix("<s>").encode())

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        kept = [i for i in ids if i not in self.special_ids or not skip_special_tokens]
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < SPECIAL else {SPECIAL: b"<s>", EOS: b"</s>"}[token_id]

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        extra: dict[str, Any] | None = None,
    ) -> str:
        messages = plain_messages(messages)
        if any(message["role"] == "tool" and not tools for message in messages):
            raise InvalidRequest("the chat template knows no role 'tool' without tools", param="messages")
        document = {"messages": messages, "tools": tools, "extra": extra, "generate": add_generation_prompt}
        return json.dumps(document, ensure_ascii=False)


class FakeEngine:
    """Answers every prompt with `answer` then EOS; without one, letters from the seed on, for ever.

    `gate` unset holds all tokens back from number `held_from` on.
    """

    def __init__(self, max_model_len: int = 2048) -> None:
        self.info = EngineInfo(
            model=MODEL,
            revision="main",
            device="fake",
            dtype="float32",
            tensor_parallel=1,
            vocab_size=VOCABULARY,
            max_model_len=max_model_len,
            block_size=64,
            kv_blocks=100,
            token_budget=512,
            load_seconds=0.1,
            prefill_tokens_per_second=1e6,
        )
        self.tokenizer = FakeTokenizer()
        self.health = Health(alive=True)
        self.listeners: list[EngineListener] = []
        self.answer: str | None = None
        self.fail_at: int | None = None  # number of the token that becomes an engine error
        self.crash_at: int | None = None  # number of the token at which a bug strikes
        self.held_from = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.prompts: list[list[int]] = []
        self.params: list[GenerateParams] = []
        self.salts: list[str] = []
        self.running: set[str] = set()
        self.aborted: list[str] = []
        self.stopped = False
        self.tokens_made = 0
        self._dead: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def prompt_texts(self) -> list[str]:
        return [self.tokenizer.decode(prompt) for prompt in self.prompts]

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    async def generate(
        self,
        prompt: str | list[int],
        params: GenerateParams,
        *,
        request_id: str | None = None,
        cache_salt: str = "",
    ) -> AsyncGenerator[Output, None]:
        assert isinstance(prompt, list)
        assert request_id is not None
        assert request_id not in self.running, "request ids must be unique"
        self.prompts.append(prompt)
        self.params.append(params)
        self.salts.append(cache_salt)
        self.running.add(request_id)
        finished = False
        try:
            async for output in self._outputs(prompt, params):
                finished = output.finish_reason is not None
                yield output
        finally:
            self.running.discard(request_id)
            if not finished:
                self.aborted.append(request_id)

    async def _outputs(self, prompt: list[int], params: GenerateParams) -> AsyncIterator[Output]:
        sampling = params.sampling
        scores = None
        if sampling.prompt_logprobs is not None:
            scores = [_score(token, sampling.prompt_logprobs) for token in prompt[1:]]
        done = Output(text="", token_ids=[], prompt_tokens=len(prompt), cached_tokens=len(prompt) // 2)
        if sampling.max_tokens == 0:
            yield _changed(done, prompt_logprobs=scores, finish_reason="length")
            return
        text = ""
        for i in range(sampling.max_tokens):
            await self._token_is_due(i)
            if i == self.fail_at:
                yield _changed(done, finish_reason="error", error="NaN in the logits", generated_tokens=i)
                return
            if i == self.crash_at:
                raise RuntimeError("secret internals")
            token = self._token(i, sampling.seed)
            self.tokens_made += 1
            piece = self.tokenizer.decode([token], skip_special_tokens=params.skip_special_tokens)
            text += piece if params.stop else ""
            stop = next((stop for stop in params.stop if stop in text), None)
            ended = token == EOS and not sampling.ignore_eos
            reason = "stop" if ended or stop else "length" if i + 1 == sampling.max_tokens else None
            self._measure(i, len(prompt), reason)
            yield _changed(
                done,
                text="" if stop else piece,
                token_ids=[token],
                finish_reason=reason,
                stop_reason=stop,
                logprobs=None if sampling.logprobs is None else [_score(token, sampling.logprobs)],
                prompt_logprobs=scores if i == 0 else None,
                generated_tokens=i + 1,
                seconds=0.25 if reason else 0.0,
                model_seconds=0.125 if reason else 0.0,
            )
            if reason:
                return

    async def _token_is_due(self, number: int) -> None:
        if number >= self.held_from:
            opened = asyncio.ensure_future(self.gate.wait())
            await asyncio.wait({opened, self._dead}, return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
        await asyncio.sleep(0)
        if self._dead.done():
            raise EngineDead(self._dead.result())

    def _token(self, number: int, seed: int) -> int:
        if self.answer is None:
            return ord("a") + (seed + number) % 26
        tokens = self.answer.encode()
        return tokens[number] if number < len(tokens) else EOS

    def _measure(self, number: int, prompt_tokens: int, reason: Any) -> None:
        for listener in self.listeners:
            listener.on_tokens(first=number == 0, seconds=0.03, count=1)
            listener.on_step(
                EngineStats(
                    num_running=len(self.running),
                    prefix_cache_queries=100,
                    prefix_cache_hits=40,
                    num_preemptions=2,
                    steps=number + 1,
                    iteration_tokens=7,
                )
            )
            if reason:
                listener.on_finished(
                    RequestStats(
                        prompt_tokens=prompt_tokens,
                        generated_tokens=number + 1,
                        cached_tokens=0,
                        finish_reason=reason,
                        first_token=0.03,
                        end_to_end=0.25,
                    )
                )

    def die(self, reason: str) -> None:
        self.health = Health(alive=False, reason=reason)
        self._dead.set_result(reason)

    async def wait_dead(self) -> str:
        return await asyncio.shield(self._dead)

    async def stop(self) -> None:
        self.stopped = True
        if not self._dead.done():
            self._dead.set_result("the engine was stopped")


def _changed(output: Output, **values: Any) -> Output:
    return Output(**{name: getattr(output, name) for name in output.__struct_fields__} | values)


def _score(token: int, top: int) -> TokenLogprob:
    rivals = [(token, -0.5), ((token + 1) % 256, -1.5), ((token + 2) % 256, -2.5)]
    return TokenLogprob(token, -0.5, rivals[:top])


class Running:
    """A server that listens, and its engine."""

    def __init__(self, server: Server, engine: Any, task: "asyncio.Task[int]") -> None:
        self.server, self.engine, self.task = server, engine, task

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.http_port}"

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server.grpc_port}"

    async def stop(self) -> int:
        self.server.service.stop_requested.set()
        return await self.task


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start_server(engine: FakeEngine) -> AsyncIterator[Start]:
    """Starts a server with options of ServerArgs; `loaded` is awaited before it gets its engine."""
    started: list[Running] = []

    async def start(loaded: Awaitable[None] | None = None, **options: Any) -> Running:
        async def load(_: object) -> FakeEngine:
            if loaded is not None:
                await loaded
            return engine

        names = {
            "model": MODEL,
            "deployment_name": DEPLOYMENT,
            "port": 0,
            "grpc_port": 0,
            "drain_timeout": 5.0,
        }
        server = Server(ServerArgs(**names | options), load)
        running = Running(server, engine, asyncio.create_task(server.run()))
        started.append(running)
        await until(lambda: server.http_port is not None and (loaded is not None or server.service.ready))
        return running

    yield start
    engine.gate.set()
    for running in started:
        await running.stop()


@pytest.fixture
async def server(start_server: Start) -> Running:
    return await start_server()


@pytest.fixture
async def http(server: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Waits for a condition, for as long as a broken server may be given."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions are of the code under test
            await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
def sse() -> Callable[[aiohttp.ClientResponse], AsyncIterator[Any]]:
    """Reads the data of server-sent events; the last one, [DONE], as a string."""

    async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
        while line := await response.content.readline():
            data = line.decode().removeprefix("data: ").strip()
            if data:
                yield data if data == "[DONE]" else json.loads(data)

    return events


@pytest.fixture
def raw(server: Running) -> Callable[[bytes], Awaitable[tuple[int, bytes]]]:
    """Sends bytes as they are and reads the answer's status and body."""

    async def exchange(request: bytes) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.server.http_port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    return exchange
