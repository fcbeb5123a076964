"""One driver per API: turns a job into a request and the answer's chunks into a record."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import aiohttp

from mii.bench.load import Driver
from mii.bench.measure import Record
from mii.bench.workload import Job
from mii.openai_client import (
    OpenAIClient,
    RequestFailed,
    Usage,
    base_url,
    check_status,
    connection_failure,
    fetch_json,
    new_session,
)

APIS = ("openai", "openai-chat", "mii", "mii-grpc")
TAKES_TOKEN_IDS = ("openai",)
NAMES_MODELS = ("openai", "openai-chat")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is asked, and how."""

    url: str
    api: str  # one of APIS
    model: str | None = None  # None: the first of /v1/models
    greedy: bool = True  # False: the server's default sampling
    exact: bool = True  # ask for exactly as many new tokens as drawn
    timeout: float = 600.0  # seconds a request may take


@dataclass(frozen=True)
class Endpoint:
    """A driver and what its server says of itself (/v1/info; empty if it has none)."""

    driver: Driver
    model: str  # or deployment; empty where the API names neither
    info: dict[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def open_endpoint(target: Target) -> AsyncIterator[Endpoint]:
    """Connects, and finds model or deployment. Raises RequestFailed."""
    if target.api == "mii-grpc":
        from mii.bench.grpc_driver import open_grpc

        async with open_grpc(target) as driver:
            yield Endpoint(driver, target.model or "")
        return
    async with new_session(timeout=target.timeout) as session:
        info = await _info(session, base_url(target.url))
        if target.api == "mii":
            url = _mii_url(target.url, info)
            yield Endpoint(MIIDriver(session, url, target), unquote(url.partition("/mii/")[2]), info)
        else:
            client = await OpenAIClient.connect(session, target.url, target.model)
            yield Endpoint(OpenAIDriver(client, target), client.model, info)


class OpenAIDriver:
    """/v1/completions or /v1/chat/completions, streaming."""

    def __init__(self, client: OpenAIClient, target: Target) -> None:
        self._client = client
        self._target = target
        self._chat = target.api == "openai-chat"

    async def send(self, job: Job, record: Record) -> None:
        path = "/v1/chat/completions" if self._chat else "/v1/completions"
        usage, reason = None, None
        async for chunk in self._client.stream(path, self._body(job)):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                reason = choice.finish_reason or reason
                if choice.new_text:
                    record.arrivals.append(time.perf_counter())
        check_finish(reason)
        _count(record, usage)

    def _body(self, job: Job) -> dict[str, Any]:
        body: dict[str, Any] = {"max_tokens": job.new_tokens}
        if self._chat:
            body["messages"] = [{"role": "user", "content": job.prompt}]
        else:
            body["prompt"] = job.prompt
        if self._target.exact:
            body |= {"min_tokens": job.new_tokens, "ignore_eos": True}
        if self._target.greedy:
            body["temperature"] = 0.0
        return body


class MIIDriver:
    """POST /mii/{deployment}; it does not stream, so only whole answers are timed."""

    def __init__(self, session: aiohttp.ClientSession, url: str, target: Target) -> None:
        self._session = session
        self._url = url
        self._target = target

    async def send(self, job: Job, record: Record) -> None:
        body = {"prompts": job.prompt, **mii_options(job, self._target)}
        try:
            async with self._session.post(self._url, json=body) as response:
                await check_status(response)
                answer = (await response.json())[0]
                record.prompt_tokens = int(answer["prompt_length"])
                record.new_tokens = int(answer["generated_length"])
                check_finish(answer["finish_reason"])
        except (aiohttp.ClientError, OSError) as error:
            raise connection_failure(self._url, error) from error
        except (LookupError, TypeError, ValueError) as error:
            raise RequestFailed(f"{self._url}: not an answer of MII's REST API ({error!r})") from error


def mii_options(job: Job, target: Target) -> dict[str, int | bool]:
    """The generate options of MII's two APIs."""
    options: dict[str, int | bool] = {"max_new_tokens": job.new_tokens}
    if target.exact:
        options |= {"min_new_tokens": job.new_tokens, "ignore_eos": True}
    if target.greedy:
        options["do_sample"] = False
    return options


def check_finish(reason: str | None) -> None:
    """Raises RequestFailed unless the answer ended as asked."""
    if reason not in ("stop", "length"):
        raise RequestFailed(f"the answer ended with finish_reason {reason!r}, not 'stop' or 'length'")


def _count(record: Record, usage: Usage | None) -> None:
    """Takes the server's count of tokens; without one, each chunk with text counts as a token."""
    if usage is None:
        record.new_tokens = len(record.arrivals)
        return
    record.prompt_tokens = usage.prompt_tokens
    record.cached_tokens = usage.cached_tokens
    record.new_tokens = usage.completion_tokens


async def _info(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """/v1/info is ours; another server has none, and then nothing is known."""
    try:
        info = await fetch_json(session, f"{url}/v1/info")
    except RequestFailed:
        return {}
    return info if isinstance(info, dict) else {}


def _mii_url(url: str, info: dict[str, Any]) -> str:
    base = base_url(url)
    if "/mii/" in base:
        return base
    if "deployment_name" not in info:
        raise RequestFailed(f"{base}/v1/info names no deployment; give the URL as {base}/mii/DEPLOYMENT")
    return f"{base}/mii/{quote(info['deployment_name'])}"
