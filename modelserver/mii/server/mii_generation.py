"""DeepSpeed-MII's generate, as REST and gRPC both serve it: prompts and options in, replies out."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from mii.core import Output
from mii.errors import InvalidRequest
from mii.options import MIIOptions
from mii.server.backend import Backend
from mii.server.service import Service
from mii.server.streams import OutputStream, Result, check_count, collect, merge, start

GOING_ON = "none"  # MII's finish reason while there is none


class Reply(msgspec.Struct, frozen=True):
    """MII's Response for one prompt, or for one part of a stream."""

    generated_text: str  # in a stream: what is new
    prompt_length: int  # tokens
    generated_length: int  # tokens so far
    finish_reason: str  # stop | length | none
    seconds: float = 0.0  # since the request arrived
    model_seconds: float = 0.0  # of these, in the engine; known with the finish reason


async def generate(
    service: Service, engine: Backend, prompts: Sequence[str], options: MIIOptions
) -> list[Reply]:
    """One reply a prompt, in the prompts' order."""
    results = await collect(await _start(service, engine, prompts, options))
    heads = _heads(prompts, options)
    return [_whole(head, result) for head, result in zip(heads, results, strict=True)]


async def generate_stream(
    service: Service, engine: Backend, prompts: Sequence[str], options: MIIOptions
) -> AsyncGenerator[list[Reply], None]:
    """Lists of one reply a prompt, in the prompts' order: the text is what is new since the last list.

    Prompts advance independently; one without news has an empty text. A finish reason stays once it is set.
    """
    arrived = time.monotonic()
    streams = await _start(service, engine, prompts, options)
    heads = list(_heads(prompts, options))
    replies = [Reply("", 0, 0, GOING_ON)] * len(prompts)
    async with aclosing(merge(streams)) as batches:
        async for batch in batches:
            replies = [msgspec.structs.replace(reply, generated_text="") for reply in replies]
            for index, output in batch:
                head, heads[index] = heads[index], ""
                text = replies[index].generated_text + head + output.text
                replies[index] = _part(text, output, time.monotonic() - arrived)
            yield replies


async def _start(
    service: Service, engine: Backend, prompts: Sequence[str], options: MIIOptions
) -> list[OutputStream]:
    check_count(len(prompts), param="prompts")
    if not prompts or not all(prompts):
        raise InvalidRequest("'prompts' should be one or more strings that are not empty", param="prompts")
    encoded = await asyncio.gather(*(service.prompts.encode(prompt, param="prompts") for prompt in prompts))
    jobs = [
        (prompt, options.to_params(len(prompt), service.limits, index=i)) for i, prompt in enumerate(encoded)
    ]
    return start(engine, jobs, request_id=f"mii-{uuid.uuid4().hex}")


def _heads(prompts: Sequence[str], options: MIIOptions) -> Sequence[str]:
    """What the texts begin with."""
    return prompts if options.return_full_text else [""] * len(prompts)


def _whole(head: str, result: Result) -> Reply:
    return Reply(
        head + result.text,
        result.prompt_tokens,
        result.generated_tokens,
        result.finish_reason or GOING_ON,
        result.seconds,
        result.model_seconds,
    )


def _part(text: str, output: Output, elapsed: float) -> Reply:
    return Reply(
        text,
        output.prompt_tokens,
        output.generated_tokens,
        output.finish_reason or GOING_ON,
        output.seconds or elapsed,
        output.model_seconds,
    )
