"""POST /v1/completions."""

import asyncio
import time
import uuid
from collections.abc import Sequence

import msgspec
from aiohttp import web

from mii.core import Output
from mii.server.backend import Backend, Tokenizer
from mii.server.body import parse
from mii.server.openai import replies
from mii.server.openai.completion_schema import CompletionRequest
from mii.server.openai.logprobs import CompletionLogprobsBuilder, no_logprobs
from mii.server.openai.params import check_token_ids, completion_params
from mii.server.openai.streaming import events
from mii.server.routes import SERVICE, Route, json_response
from mii.server.service import Service
from mii.server.sse import event, respond
from mii.server.streams import OutputStream, Result, check_count, collect, start


async def completions(request: web.Request) -> web.StreamResponse:
    body = await parse(request, CompletionRequest)
    service = request.app[SERVICE]
    with service.admit() as engine:
        service.check_model(body.model)
        writer, streams = await _begin(body, service, engine)
        if body.stream:
            return await respond(request, events(streams, writer.chunk, writer.conclusion))
        return json_response(writer.whole(await collect(streams)))


async def _begin(
    body: CompletionRequest, service: Service, engine: Backend
) -> tuple["_Writer", list[OutputStream]]:
    check_count(len(body.prompts) * body.choices, param="prompt")
    prompts = await _token_ids(body, service)
    jobs = [
        (prompt, completion_params(body, len(prompt), service.limits, index=i * body.choices + j))
        for i, prompt in enumerate(prompts)
        for j in range(body.choices)
    ]
    echoes = await _echoes(body, prompts, engine.tokenizer) if body.echo else [""] * len(prompts)
    writer = _Writer(f"cmpl-{uuid.uuid4().hex}", body, service)
    writer.choices = [
        _Choice(i, body, prompt, echoes[i // body.choices], engine.tokenizer)
        for i, (prompt, _) in enumerate(jobs)
    ]
    return writer, start(engine, jobs, request_id=writer.id, cache_salt=body.cache_salt or "")


async def _token_ids(body: CompletionRequest, service: Service) -> list[list[int]]:
    special = body.add_special_tokens is not False

    async def encode(prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return await service.prompts.encode(prompt, param="prompt", add_special_tokens=special)
        check_token_ids(prompt, service.limits, "prompt")
        return prompt

    return await asyncio.gather(*map(encode, body.prompts))


async def _echoes(body: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer) -> list[str]:
    """The prompts' texts: as given, or decoded in a thread."""
    skip = body.skip_special_tokens is not False
    return [
        given
        if isinstance(given, str)
        else await asyncio.to_thread(tokenizer.decode, ids, skip_special_tokens=skip)
        for given, ids in zip(body.prompts, prompts, strict=True)
    ]


class _Choice:
    """One generation on its way to the client; its text begins with the prompt if that is to be echoed."""

    def __init__(
        self, index: int, body: CompletionRequest, prompt: list[int], echo: str, tokenizer: Tokenizer
    ) -> None:
        self._index = index
        self._echo: str | None = echo if body.echo else None
        self._prompt = prompt
        self._logprobs: CompletionLogprobsBuilder | None = None
        if body.logprobs is not None:
            skip = body.skip_special_tokens is not False
            self._logprobs = CompletionLogprobsBuilder(tokenizer, skip_special_tokens=skip)

    def build(self, piece: Output | Result) -> replies.CompletionChoice:
        """The next chunk of the choice, or all of it."""
        text, lists = piece.text, no_logprobs() if self._logprobs else None
        if self._echo is not None:
            text, self._echo = self._echo + text, None
            if self._logprobs:
                lists = self._logprobs.prompt(self._prompt, piece.prompt_logprobs or ())
        if self._logprobs and lists:
            self._logprobs.extend(lists, piece.logprobs or ())
        return replies.CompletionChoice(self._index, text, lists, piece.finish_reason, piece.stop_reason)


class _Writer:
    """Builds the answer's JSON, whole or in chunks."""

    choices: list[_Choice]

    def __init__(self, request_id: str, body: CompletionRequest, service: Service) -> None:
        self.id = request_id
        self._created = int(time.time())
        self._body = body
        self._service = service

    def whole(self, results: list[Result]) -> replies.Completion:
        choices = [choice.build(result) for choice, result in zip(self.choices, results, strict=True)]
        return self._completion(choices, replies.usage(results, self._body.choices))

    def chunk(self, index: int, output: Output) -> bytes:
        choice = self.choices[index].build(output)
        scored = choice.logprobs is not None and choice.logprobs.tokens
        if not choice.text and not scored and choice.finish_reason is None:
            return b""
        return event(self._completion([choice], None if self._body.include_usage else msgspec.UNSET))

    def conclusion(self, last: Sequence[Output]) -> bytes:
        if not self._body.include_usage:
            return b""
        return event(self._completion([], replies.usage(last, self._body.choices)))

    def _completion(
        self, choices: list[replies.CompletionChoice], usage: replies.Usage | msgspec.UnsetType | None
    ) -> replies.Completion:
        service = self._service
        return replies.Completion(
            self.id, self._created, service.model_name, choices, service.fingerprint, usage
        )


ROUTES = [
    Route(
        method="POST",
        path="/v1/completions",
        handler=completions,
        summary="Complete prompts (OpenAI)",
        request=CompletionRequest,
        reply=replies.Completion,
        stream=replies.Completion,
    )
]
