"""The little of an OpenAI client that `mii chat` and `mii bench` need: find the model, stream an answer.

    POST ─> lines of server-sent events ─> Chunk, Chunk, … ─> [DONE]

Made for being quick at one thing: a typed decode of each chunk and nothing else per token.
"""

import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from mii.errors import MIIError

API_KEY_VARIABLE = "MII_API_KEY"


class RequestFailed(MIIError):  # noqa: N818 - reads as what it is at the raise
    """The server did not answer, answered with an error, or broke off its answer."""


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None

    @property
    def cached_tokens(self) -> int:
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    text: str | None = None  # of a completion
    delta: Delta | None = None  # of a chat
    finish_reason: str | None = None

    @property
    def new_text(self) -> str:
        return self.text or (self.delta and self.delta.content) or ""


class Chunk(msgspec.Struct):
    """One streamed object of either API; the last one before [DONE] may carry the usage and no choice."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: dict[str, Any] | str | None = None


_decode_chunk = msgspec.json.Decoder(Chunk).decode


def base_url(url: str) -> str:
    """`http://host:port` of what the user typed: the scheme, a trailing slash and `/v1` are optional."""
    with_scheme = url if "://" in url else f"http://{url}"
    return with_scheme.rstrip("/").removesuffix("/v1").rstrip("/")


def new_session(*, timeout: float | None = None) -> aiohttp.ClientSession:
    """A session without a limit of connections; `timeout` is seconds for a whole request.

    If $MII_API_KEY is set, it is sent as the bearer token.
    """
    key = os.environ.get(API_KEY_VARIABLE)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout, connect=10),
        headers={"Authorization": f"Bearer {key}"} if key else None,
    )


class OpenAIClient:
    """One server, one model."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self._session = session
        self.url = url
        self.model = model

    @classmethod
    async def connect(
        cls, session: aiohttp.ClientSession, url: str, model: str | None = None
    ) -> "OpenAIClient":
        """Asks /v1/models for the model's name unless it is given. Raises RequestFailed."""
        url = base_url(url)
        return cls(session, url, model or await _first_model(session, url))

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[Chunk]:
        """Posts `body` with model and streaming options added. Raises RequestFailed, also in mid-stream."""
        payload = {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            **body,
        }
        url = self.url + path
        try:
            async with self._session.post(url, json=payload) as response:
                await check_status(response)
                async for data in _events(response.content):
                    if data == b"[DONE]":
                        return
                    yield _parse_chunk(data)
        except (aiohttp.ClientError, OSError) as error:
            raise connection_failure(url, error) from error
        raise RequestFailed(f"{url}: the stream ended without [DONE]")


async def fetch_json(session: aiohttp.ClientSession, url: str) -> Any:
    """GET as JSON. Raises RequestFailed."""
    try:
        async with session.get(url) as response:
            await check_status(response)
            return await response.json(content_type=None)
    except (aiohttp.ClientError, OSError) as error:
        raise connection_failure(url, error) from error
    except ValueError as error:
        raise RequestFailed(f"{url} did not answer with JSON; is this a model server?") from error


async def check_status(response: aiohttp.ClientResponse) -> None:
    """Raises RequestFailed with the server's own words if the status is not 2xx."""
    if response.ok:
        return
    text = await response.text(errors="replace")
    raise RequestFailed(f"{response.url} answered {response.status}: {_error_words(text)}")


def connection_failure(url: str, error: Exception) -> RequestFailed:
    if isinstance(error, TimeoutError):
        return RequestFailed(f"{url} did not answer in time")
    if isinstance(error, aiohttp.ClientConnectionError) and not isinstance(
        error, aiohttp.ServerDisconnectedError
    ):
        return RequestFailed(f"nothing answers at {url} ({error}); `mii serve MODEL` starts a server")
    return RequestFailed(f"{url} broke off: {error or type(error).__name__}")


async def _first_model(session: aiohttp.ClientSession, url: str) -> str:
    answer = await fetch_json(session, f"{url}/v1/models")
    try:
        return str(answer["data"][0]["id"])
    except (LookupError, TypeError) as error:
        raise RequestFailed(f"{url}/v1/models lists no model; is it an OpenAI-compatible server?") from error


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The payload of each `data:` line; OpenAI's events are one line of JSON each."""
    rest = b""
    async for block in content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _parse_chunk(data: bytes) -> Chunk:
    try:
        chunk = _decode_chunk(data)
    except msgspec.DecodeError as error:
        raise RequestFailed(f"not a chunk of an OpenAI stream ({error}): {data[:200]!r}") from error
    if chunk.error:
        raise RequestFailed(_message_of(chunk.error))
    return chunk


def _error_words(text: str) -> str:
    """The message in an OpenAI-shaped error body, else the start of the body."""
    try:
        return _message_of(msgspec.json.decode(text)["error"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return text.strip()[:300] or "(empty body)"


def _message_of(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
