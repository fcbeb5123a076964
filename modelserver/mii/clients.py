"""`mii.client`: generation over gRPC with MII's messages, from any process and any host.

prompts, options ─MultiStringRequest─> gateway or server ─MultiGenerationReply─> list[Response]
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
from google.protobuf.empty_pb2 import Empty

from mii.errors import DeploymentNotFoundError, InvalidRequest, MIIError, ServerUnavailable, UnknownArgument
from mii.grpc_values import to_values
from mii.local import shutdown, state
from mii.mii_config import MIIConfig
from mii.response import Response, finish_reason
from mii.server.proto import modelresponse_pb2 as pb
from mii.server.proto.modelresponse_pb2_grpc import ModelResponseStub

__all__ = ["MIIClient", "Response", "client"]

MAX_MESSAGE_BYTES = 128 * 1024 * 1024
OWNER_TOKEN_KEY = "mii-owner-token"
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]

StreamingFn = Callable[[list[Response]], Any]


def client(
    model_or_deployment_name: str,
    *,
    host: str = "localhost",
    port: int | None = None,
    api_key: str | None = None,
) -> "MIIClient":
    """A client of a deployment: of this machine by its name (or its model's), of any host with `port`.

    Raises DeploymentNotFoundError, listing what runs here, if there is no local deployment of that name.
    """
    return MIIClient(model_or_deployment_name, host=host, port=port, api_key=api_key)


class MIIClient:
    """Generates with a deployment, over one connection. Safe to share between threads."""

    def __init__(
        self,
        mii_config: MIIConfig | str,
        host: str = "localhost",
        port: int | None = None,
        *,
        api_key: str | None = None,
    ) -> None:
        """`mii_config` is a deployment's configuration or name; a name without `port` is looked up here."""
        self.name, self.address = _resolve(mii_config, host, port)
        self._metadata = [("authorization", f"Bearer {api_key}")] if api_key else []
        self._channel = grpc.insecure_channel(self.address, options=_CHANNEL_OPTIONS)
        self._stub = ModelResponseStub(self._channel)  # type: ignore[no-untyped-call]

    def __call__(
        self, prompts: str | Sequence[str], streaming_fn: StreamingFn | None = None, **options: Any
    ) -> list[Response] | None:
        """The same as generate."""
        return self.generate(prompts, streaming_fn, **options)

    def generate(
        self, prompts: str | Sequence[str], streaming_fn: StreamingFn | None = None, **options: Any
    ) -> list[Response] | None:
        """One Response per prompt, in order; `options` are MII's generate options.

        With `streaming_fn` there must be one prompt: the function gets a list with one Response, whose text
        is new, as often as text arrives, and None is returned.

        Raises UnknownArgument or InvalidRequest naming the option, ServerUnavailable naming the address, and
        MIIError with the server's words otherwise.
        """
        request = _request(prompts, options)
        try:
            if streaming_fn is None:
                return _responses(self._stub.GeneratorReply(request, metadata=self._metadata))
            self._stream(request, streaming_fn)
        except grpc.RpcError as error:
            self._raise(error)
        return None

    async def async_generate(self, prompts: str | Sequence[str], **options: Any) -> list[Response]:
        """The same as generate, awaited; cancelling it cancels the request."""
        call = self._stub.GeneratorReply.future(_request(prompts, options), metadata=self._metadata)
        try:
            return _responses(await _awaited(call))
        except grpc.RpcError as error:
            self._raise(error)

    def terminate_server(self) -> None:
        """Ends the local deployment, as its owner; returns when all of its processes are gone.

        Raises DeploymentNotFoundError unless it runs on this machine, under this user, at this address.
        """
        record = state.find(self.name)
        addresses = [f"{host}:{record.grpc_port}" for host in ("localhost", "127.0.0.1", record.host)]
        if self.address not in addresses:
            raise DeploymentNotFoundError(
                f"this client talks to {self.address}, but the local deployment {record.name!r} is at "
                f"{addresses[0]}: a deployment elsewhere is ended by its owner there"
            )
        shutdown.end(record, self._ask_to_terminate)

    def close(self) -> None:
        """Closes the connection; the deployment goes on."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(self, request: pb.MultiStringRequest, streaming_fn: StreamingFn) -> None:
        if len(request.request) != 1:
            raise InvalidRequest(
                f"streaming takes one prompt, got {len(request.request)}: call once per prompt",
                param="prompts",
            )
        call = self._stub.GeneratorReplyStream(request, metadata=self._metadata)
        try:
            for reply in call:
                streaming_fn(_responses(reply))
        finally:
            call.cancel()  # what streaming_fn may have left by an exception

    def _ask_to_terminate(self) -> bool:
        token = state.token_file(self.name).read_text()
        try:
            self._stub.Terminate(Empty(), timeout=5, metadata=[(OWNER_TOKEN_KEY, token)])
        except grpc.RpcError:
            return False  # it may hang or be half dead: its supervisor is still there to be asked
        return True

    def _raise(self, error: grpc.RpcError) -> NoReturn:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            kind = UnknownArgument if details.startswith("unknown option") else InvalidRequest
            raise kind(details) from None
        if code is grpc.StatusCode.UNAVAILABLE:
            raise ServerUnavailable(f"no answer from {self.name!r} at {self.address}: {details}") from None
        raise MIIError(f"{self.name!r} at {self.address} answers {code.name}: {details}") from error


def _resolve(target: MIIConfig | str, host: str, port: int | None) -> tuple[str, str]:
    """The name of a deployment and the address of its gRPC port."""
    if isinstance(target, MIIConfig):
        return target.deployment_name, f"{host}:{port or target.port_number}"
    if port is not None:
        return target, f"{host}:{port}"
    if host != "localhost":
        raise DeploymentNotFoundError(f"{target!r} on {host} needs port=, the deployment's gRPC port (50050)")
    record = state.find(target)
    return record.name, f"{record.host}:{record.grpc_port}"


def _request(prompts: str | Sequence[str], options: dict[str, Any]) -> pb.MultiStringRequest:
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest("prompts must be one or more strings that are not empty", param="prompts")
    try:
        return pb.MultiStringRequest(request=texts, query_kwargs=to_values(options))
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"a text is not valid Unicode: {error}", param="prompts") from None


def _responses(reply: pb.MultiGenerationReply) -> list[Response]:
    return [
        Response(
            generated_text=one.response,
            prompt_length=one.prompt_tokens,
            generated_length=one.generated_tokens,
            finish_reason=finish_reason(one.finish_reason),
        )
        for one in reply.response
    ]


async def _awaited(call: Any) -> Any:
    """Waits on the event loop for a gRPC future, which ends in a thread of gRPC's."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: a cancelled call, nobody waits
            loop.call_soon_threadsafe(done.set)

    call.add_done_callback(wake)
    try:
        await done.wait()
    except asyncio.CancelledError:
        call.cancel()
        raise
    return call.result()
