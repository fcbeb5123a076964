"""A deployment's address, and one request of each kind to it.

Requests are generators of the answer's parts. They raise FailedError for an answer that is none, else what
the libraries raise.
"""

import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc

from mii.server.proto import modelresponse_pb2 as pb
from mii.server.proto import modelresponse_pb2_grpc as pb_grpc

SECONDS = 330.0  # that a request may take: longer than the gateway keeps one waiting for a replica
SHORT, LONG = 4, 16  # tokens of an answer in one piece, of a streamed one


class FailedError(Exception):
    """An answer that is none."""


@dataclass(frozen=True)
class Trust:
    """Of certificates for `name` that this authority has signed."""

    name: str
    authority: Path  # its certificate


@dataclass(frozen=True)
class Address:
    """The Service's; with `tls` it speaks nothing else."""

    host: str
    http_port: int
    grpc_port: int
    tls: Trust | None = None


class HttpEndpoint:
    """OpenAI's chat. With `keep` requests share a connection, without each opens one."""

    def __init__(self, address: Address, model: str, *, keep: bool) -> None:
        self._model = model
        scheme, tls = ("https", address.tls) if address.tls else ("http", None)
        self._tls: dict[str, Any] = {}
        if tls:
            trust = ssl.create_default_context(cafile=tls.authority)
            self._tls = {"ssl": trust, "server_hostname": tls.name}
        self._session = aiohttp.ClientSession(
            f"{scheme}://{address.host}:{address.http_port}",
            timeout=aiohttp.ClientTimeout(total=SECONDS),
            connector=aiohttp.TCPConnector(force_close=not keep),
        )

    async def ask(self, key: str, *, stream: bool) -> AsyncIterator[str]:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": "Count from one to a hundred, in words."}],
            "max_tokens": LONG if stream else SHORT,
            "stream": stream,
        }
        headers = {"Authorization": f"Bearer {key}"}
        post = self._session.post("/v1/chat/completions", json=body, headers=headers, **self._tls)
        async with post as response:
            if response.status != 200:
                raise FailedError(f"{response.status} {await response.text()}")
            if stream:
                async for part in _events(response):
                    yield part
            else:
                answer = await response.json()
                yield answer["choices"][0]["message"]["content"]

    async def aclose(self) -> None:
        await self._session.close()


class GrpcEndpoint:
    """DeepSpeed-MII's service, on a connection of its own. gRPC itself sends a call again that a server has
    not taken up, as it does unless it is told otherwise; nothing else is tried again."""

    def __init__(self, address: Address) -> None:
        options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
        target = f"{address.host}:{address.grpc_port}"
        if address.tls:
            options.append(("grpc.ssl_target_name_override", address.tls.name))
            credentials = grpc.ssl_channel_credentials(address.tls.authority.read_bytes())
            self._channel = grpc.aio.secure_channel(target, credentials, options=options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options=options)
        self._stub: Any = pb_grpc.ModelResponseStub(self._channel)

    async def ask(self, key: str, *, stream: bool) -> AsyncIterator[str]:
        options = {"max_new_tokens": pb.Value(ivalue=LONG if stream else SHORT)}
        message = pb.MultiStringRequest(request=["One, two, three,"], query_kwargs=options)
        call = {"metadata": (("authorization", f"Bearer {key}"),), "timeout": SECONDS}
        if not stream:
            reply = await self._stub.GeneratorReply(message, **call)
            yield reply.response[0].response
            return
        finished = ""
        async for reply in self._stub.GeneratorReplyStream(message, **call):
            yield reply.response[0].response
            finished = reply.response[0].finish_reason
        if finished in ("", "none"):
            raise FailedError(f"the stream ended with the finish reason {finished!r}")

    async def aclose(self) -> None:
        await self._channel.close()


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The text of each server-sent event."""
    done = False
    async for line in response.content:
        event = line.decode().removeprefix("data:").strip()
        done = done or event == "[DONE]"
        if event and not done:
            yield _delta(json.loads(event))
    if not done:
        raise FailedError("the stream ended without [DONE]")


def _delta(event: dict[str, Any]) -> str:
    """Of a chunk. Raises FailedError with the error that came in its place."""
    if "error" in event:
        raise FailedError(f"in the stream: {event['error']}")
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])
