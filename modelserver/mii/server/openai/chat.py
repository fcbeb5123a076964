"""POST /v1/chat/completions."""

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
from mii.server.openai.chat_prompt import template_messages, template_tools
from mii.server.openai.chat_schema import ChatRequest
from mii.server.openai.logprobs import chat_logprobs
from mii.server.openai.params import chat_params
from mii.server.openai.streaming import events
from mii.server.routes import SERVICE, Route, json_response
from mii.server.service import Service
from mii.server.sse import event, respond
from mii.server.streams import Result, collect, start


async def chat_completions(request: web.Request) -> web.StreamResponse:
    body = await parse(request, ChatRequest)
    service = request.app[SERVICE]
    with service.admit() as engine:
        service.check_model(body.model)
        prompt = await _prompt(body, service, engine)
        jobs = [
            (prompt, chat_params(body, len(prompt), service.limits, index=i)) for i in range(body.choices)
        ]
        writer = _Writer(body, service, engine.tokenizer)
        streams = start(engine, jobs, request_id=writer.id, cache_salt=body.cache_salt or "")
        if body.stream:
            return await respond(request, events(streams, writer.chunk, writer.conclusion))
        return json_response(writer.whole(await collect(streams)))


async def _prompt(body: ChatRequest, service: Service, engine: Backend) -> list[int]:
    """The conversation through the model's chat template, which writes its own special tokens."""
    text = await asyncio.to_thread(
        engine.tokenizer.apply_chat_template,
        template_messages(body),
        tools=template_tools(body),
        add_generation_prompt=body.add_generation_prompt is not False,
        extra=body.chat_template_kwargs,
    )
    special = bool(body.add_special_tokens)
    return await service.prompts.encode(text, param="messages", add_special_tokens=special)


class _Writer:
    """Builds the answer's JSON, whole or in chunks."""

    def __init__(self, body: ChatRequest, service: Service, tokenizer: Tokenizer) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._body = body
        self._service = service
        self._tokenizer = tokenizer
        self._silent = set(range(body.choices))  # choices whose role has not been sent

    def whole(self, results: list[Result]) -> replies.ChatCompletion:
        service = self._service
        choices = [
            replies.ChatChoice(
                i, replies.ChatMessage(r.text), self._logprobs(r), r.finish_reason, r.stop_reason
            )
            for i, r in enumerate(results)
        ]
        usage = replies.usage(results, self._body.choices)
        return replies.ChatCompletion(
            self.id, self._created, service.model_name, choices, service.fingerprint, usage
        )

    def chunk(self, index: int, output: Output) -> bytes:
        role = self._role(index)
        logprobs = self._logprobs(output)
        if not output.text and not (logprobs and logprobs.content) and output.finish_reason is None:
            return role
        delta = replies.Delta(content=output.text) if output.text else replies.Delta()
        choice = replies.ChatChunkChoice(index, delta, logprobs, output.finish_reason, output.stop_reason)
        return role + self._event([choice])

    def conclusion(self, last: Sequence[Output]) -> bytes:
        if not self._body.include_usage:
            return b""
        return self._event([], replies.usage(last, self._body.choices))

    def _role(self, index: int) -> bytes:
        """The event that opens a choice, the first time."""
        if index not in self._silent:
            return b""
        self._silent.remove(index)
        return self._event([replies.ChatChunkChoice(index, replies.Delta("assistant", ""))])

    def _logprobs(self, piece: Output | Result) -> replies.ChatLogprobs | None:
        if not self._body.logprobs:
            return None
        return chat_logprobs(piece.logprobs or (), self._tokenizer, self._body.top_logprobs or 0)

    def _event(self, choices: list[replies.ChatChunkChoice], usage: replies.Usage | None = None) -> bytes:
        service = self._service
        shown = usage if self._body.include_usage else msgspec.UNSET
        return event(
            replies.ChatChunk(self.id, self._created, service.model_name, choices, service.fingerprint, shown)
        )


ROUTES = [
    Route(
        method="POST",
        path="/v1/chat/completions",
        handler=chat_completions,
        summary="Answer a conversation (OpenAI)",
        request=ChatRequest,
        reply=replies.ChatCompletion,
        stream=replies.ChatChunk,
    )
]
