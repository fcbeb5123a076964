"""MII's gRPC service, with health and reflection, on grpc.aio."""

import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection

from mii.errors import InvalidRequest
from mii.options import MIIOptions, mii_options
from mii.server.grpc_errors import status
from mii.server.grpc_values import to_options
from mii.server.mii_generation import Reply, generate, generate_stream
from mii.server.proto import modelresponse_pb2 as messages
from mii.server.proto import modelresponse_pb2_grpc as stubs
from mii.server.service import Service

NAME = messages.DESCRIPTOR.services_by_name["ModelResponse"].full_name
MESSAGE_BYTES = 128 * 1024 * 1024
OWNER_TOKEN = "mii-owner-token"
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent share of the traffic
]

Context = grpc.aio.ServicerContext[Any, Any]


log = logging.getLogger(__name__)


class ModelResponse(stubs.ModelResponseServicer):
    """package modelresponse, see proto/modelresponse.proto. A client that cancels aborts its request."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def GeneratorReply(  # noqa: N802
        self, request: messages.MultiStringRequest, context: Context
    ) -> messages.MultiGenerationReply:
        try:
            options = _options(request)
            if options.stream:
                raise InvalidRequest("the option 'stream' needs GeneratorReplyStream", param="stream")
            with self._service.admit() as engine:
                return _message(await generate(self._service, engine, request.request, options))
        except Exception as error:
            await context.abort(*status(error))

    async def GeneratorReplyStream(  # noqa: N802
        self, request: messages.MultiStringRequest, context: Context
    ) -> AsyncIterator[messages.MultiGenerationReply]:
        """Every message has one reply a prompt, in their order, with what is new (see generate_stream)."""
        try:
            options = _options(request)
            with self._service.admit() as engine:
                lists = generate_stream(self._service, engine, request.request, options)
                async with aclosing(lists):
                    async for replies in lists:
                        yield _message(replies)
        except Exception as error:
            await context.abort(*status(error))

    async def Terminate(self, _: Empty, context: Context) -> Empty:  # noqa: N802
        """Drains and ends the server, for who holds the owner's token."""
        if not self._is_owner(context):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"Terminate needs the owner's token in the metadata key '{OWNER_TOKEN}'",
            )
        self._service.stop_requested.set()
        return Empty()

    def _is_owner(self, context: Context) -> bool:
        """Without a file that can be read, or with an empty one, nobody is the owner."""
        path = self._service.args.owner_token_file
        try:
            token = Path(path).read_text().strip() if path else ""
        except (OSError, UnicodeDecodeError) as error:
            log.warning("no owner's token: %s", error)
            token = ""
        given = dict(context.invocation_metadata() or ()).get(OWNER_TOKEN, "")
        return bool(token) and hmac.compare_digest(str(given).encode(), token.encode())


class GrpcServer:
    """The listening server; it serves health at once, NOT_SERVING until told otherwise."""

    def __init__(self, service: Service) -> None:
        self._server = grpc.aio.server(options=OPTIONS)
        self._health = health_aio.HealthServicer()
        stubs.add_ModelResponseServicer_to_server(ModelResponse(service), self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the port; raises RuntimeError if it is taken."""
        name = f"[{host}]" if ":" in host else host
        bound = self._server.add_insecure_port(f"{name}:{port}")
        await self.set_serving(False)
        await self._server.start()
        return bound

    async def set_serving(self, serving: bool) -> None:
        state = health_pb2.HealthCheckResponse.ServingStatus
        for name in ("", NAME):
            await self._health.set(name, state.SERVING if serving else state.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Lets calls end for `grace` seconds, then cancels them."""
        await self._server.stop(grace)


def _options(request: messages.MultiStringRequest) -> MIIOptions:
    return mii_options(to_options(request.query_kwargs))


def _message(replies: list[Reply]) -> messages.MultiGenerationReply:
    return messages.MultiGenerationReply(
        response=[
            messages.SingleGenerationReply(
                response=reply.generated_text,
                finish_reason=reply.finish_reason,
                prompt_tokens=reply.prompt_length,
                generated_tokens=reply.generated_length,
                time_taken=reply.seconds,
                model_time_taken=reply.model_seconds,
            )
            for reply in replies
        ]
    )
