"""One gRPC attempt on one replica."""

import asyncio
from collections import deque
from typing import TypeAlias

import grpc
import grpc.aio

from mii_gateway import metadata
from mii_gateway.channels import ChannelPool
from mii_gateway.dispatch import Dispatcher, Reason, ReplicaFailed
from mii_gateway.errors import replica_silent, stream_cut
from mii_gateway.record import Record
from mii_gateway.replay import Replay
from mii_gateway.work import Lease

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

_UNARY = {"/modelresponse.ModelResponse/GeneratorReply"}  # their only message is of no use without its status

_LOSS_SECONDS = 0.05
_LOCAL_FAULT = "Internal error from Core"  # grpc.aio's words

# Before a first message these mean that the replica is gone or going: stopping servers answer either.
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class GrpcUpstream:
    def __init__(self, channels: ChannelPool, dispatcher: Dispatcher, *, idle_timeout: float) -> None:
        self._channels = channels
        self._dispatcher = dispatcher
        self._idle_timeout = idle_timeout

    async def call(self, lease: Lease, replay: Replay, context: Context, record: Record) -> None:
        """Passes everything on in both directions, the final status included.

        Raises ReplicaFailed before the first response message only, and Refusal after the idle timeout.
        """
        while not await self._attempt(lease, replay, context, record):
            record.failures.append("local")

    async def _attempt(self, lease: Lease, replay: Replay, context: Context, record: Record) -> bool:
        """False if grpc.aio itself failed before anything was passed on, and the call may be made again."""
        channel = self._channels.channel(lease.replica)
        call = channel.stream_stream(record.path, None, None)(
            replay.messages(),
            metadata=metadata.request_metadata(
                context.invocation_metadata(), record.request_id, authenticated=bool(record.key)
            ),
            timeout=context.time_remaining(),
        )
        try:
            with record.upstream():
                messages = await self._first(call, record)
            if messages[-1] is None and replay.complete:
                if await call.code() in _GONE:
                    raise ReplicaFailed(_reason(channel))
                if await _failed_here(call) and "local" not in record.failures:
                    return False
            lease.first_byte()
            await replay.commit()
            await self._relay(messages, call, context, record)
            await self._finish(lease, channel, call, context, record)
        finally:
            call.cancel()
        return True

    async def _first(self, call: Call, record: Record) -> list[bytes | None]:
        """What must be there before anything is passed on: of an answer of one message, its end too.

        Its replica may be lost between the two, and then another can still answer the whole call.
        """
        messages = [await self._read(call, record)]
        if record.path in _UNARY and messages[0] is not None:
            messages.append(await self._read(call, record))
        return messages

    async def _relay(self, first: list[bytes | None], call: Call, context: Context, record: Record) -> None:
        if first[0] is not None:
            await context.send_initial_metadata(metadata.end_to_end(await call.initial_metadata()))
            record.first_byte()
        waiting = deque(first)
        while (message := waiting.popleft()) is not None:
            record.bytes_out += len(message)
            record.output_tokens += 1
            await context.write(message)
            if not waiting:
                waiting.append(await self._read(call, record))

    async def _finish(
        self, lease: Lease, channel: grpc.aio.Channel, call: Call, context: Context, record: Record
    ) -> None:
        code, details = await call.code(), await call.details()
        trailing = metadata.end_to_end(await call.trailing_metadata())
        record.status = code.name
        if code is grpc.StatusCode.OK:
            context.set_trailing_metadata(trailing)
            return
        if code in _GONE and await _connection_lost(channel):
            self._dispatcher.lost(lease, "broken")
            details = stream_cut(lease.replica.name, details).message
        record.error = details
        await context.abort(code, details, trailing)

    async def _read(self, call: Call, record: Record) -> bytes | None:
        """The next message; None when the call has ended, however it did."""
        try:
            async with asyncio.timeout(self._idle_timeout):
                message = await call.read()
        except grpc.aio.AioRpcError:
            return None
        except asyncio.CancelledError:
            if _cancelled():
                raise
            return None  # the replica cancelled the call, which grpc.aio raises like our own cancellation
        except TimeoutError:
            raise replica_silent(record.replica or "", self._idle_timeout) from None
        return message if isinstance(message, bytes) else None  # or grpc.aio.EOF


def _reason(channel: grpc.aio.Channel) -> Reason:
    """What ended a call, from what has become of its connection."""
    state = channel.get_state()
    if state is grpc.ChannelConnectivity.READY:
        return "refused"
    return "broken" if state is grpc.ChannelConnectivity.IDLE else "connect"


async def _connection_lost(channel: grpc.aio.Channel) -> bool:
    """Whether the replica is gone, or ended the call itself. A channel notes a loss after its calls do."""
    ready = grpc.ChannelConnectivity.READY
    if channel.get_state() is not ready:
        return True
    try:
        async with asyncio.timeout(_LOSS_SECONDS):
            await channel.wait_for_state_change(ready)
    except TimeoutError:
        return False
    return True


async def _failed_here(call: Call) -> bool:
    """Whether the status is grpc.aio's own: a replica that refuses a call while its request is still being
    written makes the write fail, and grpc.aio may report that instead of the refusal."""
    return await call.code() is grpc.StatusCode.INTERNAL and await call.details() == _LOCAL_FAULT


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
