"""gRPC: forwards any method to a replica without looking into its messages.

Every call is handled as a stream of requests and a stream of responses, which on the wire a unary call is
too, and messages stay bytes.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from mii_gateway import metadata
from mii_gateway.dispatch import Dispatcher
from mii_gateway.errors import Refusal
from mii_gateway.grpc_call import Context, GrpcUpstream
from mii_gateway.keys import KeyRing
from mii_gateway.lifecycle import Lifecycle
from mii_gateway.owner import METADATA_KEY, Owner
from mii_gateway.record import Record, Recorder
from mii_gateway.replay import Replay
from mii_gateway.work import Work

TERMINATE = "/modelresponse.ModelResponse/Terminate"
EMPTY = b""  # google.protobuf.Empty on the wire
FIRST_MESSAGE_TIMEOUT = 60.0  # seconds that a client has to send its first message


class GrpcProxy(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic at run time
    """Answers every method that no other handler of the server has."""

    def __init__(
        self,
        upstream: GrpcUpstream,
        dispatcher: Dispatcher,
        recorder: Recorder,
        lifecycle: Lifecycle,
        owner: Owner,
        keys: KeyRing,
        *,
        replay_bytes: int,
    ) -> None:
        self._upstream = upstream
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._lifecycle = lifecycle
        self._owner = owner
        self._keys = keys
        self._replay_bytes = replay_bytes

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = details.method
        behaviour = self._terminate if method == TERMINATE else self._forward

        async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
            with self._recorder.record(_new_record(method, context)) as record:
                try:
                    await behaviour(messages, context, record)
                except Refusal as refusal:
                    record.status, record.error = refusal.grpc_code.name, refusal.message
                    await context.abort(refusal.grpc_code, refusal.message)
                except asyncio.CancelledError:
                    record.status, record.error = "CANCELLED", "the client left"
                    raise

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _forward(self, messages: AsyncIterator[bytes], context: Context, record: Record) -> None:
        record.key = self._keys.authenticate(
            metadata.value(context.invocation_metadata(), metadata.AUTHORIZATION)
        )
        replay = Replay(messages, self._replay_bytes)
        reading = asyncio.create_task(replay.read())
        try:
            work = Work.of(await _first(replay), record.key)
            record.got_body(work.size)
            await self._dispatcher.run(
                work, record, lambda lease: self._upstream.call(lease, replay, context, record)
            )
        finally:
            record.bytes_in = replay.bytes_in
            reading.cancel()

    async def _terminate(self, _: AsyncIterator[bytes], context: Context, record: Record) -> None:
        token = metadata.value(context.invocation_metadata(), METADATA_KEY)
        if not await self._owner.presents(token):
            record.status = grpc.StatusCode.PERMISSION_DENIED.name
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"Terminate needs the owner's token in the metadata key {METADATA_KEY!r}",
            )
        await context.write(EMPTY)
        record.status = grpc.StatusCode.OK.name
        self._lifecycle.terminate()


async def _first(replay: Replay) -> bytes:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_TIMEOUT):
            return await replay.first()
    except TimeoutError:
        message = f"no request message came within {FIRST_MESSAGE_TIMEOUT:g} seconds"
        raise Refusal(408, message, code="request_timeout") from None


def _new_record(method: str, context: Context) -> Record:
    request_id = metadata.value(context.invocation_metadata(), metadata.REQUEST_ID)
    return Record(
        protocol="grpc",
        method="POST",
        path=method,
        request_id=str(request_id or uuid.uuid4().hex),
        client=context.peer(),
    )
