"""MII's gRPC service, streaming."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from mii.bench.drivers import Target, check_finish, mii_options
from mii.bench.measure import Record
from mii.bench.workload import Job
from mii.grpc_values import to_values
from mii.openai_client import API_KEY_VARIABLE, RequestFailed
from mii.server.proto import modelresponse_pb2 as pb
from mii.server.proto.modelresponse_pb2_grpc import ModelResponseStub

MAX_MESSAGE_BYTES = 128 * 1024 * 1024
CONNECT_SECONDS = 10.0


@asynccontextmanager
async def open_grpc(target: Target) -> AsyncIterator["GrpcDriver"]:
    """`target.url` is host:port, with or without a scheme in front. Raises RequestFailed."""
    address = target.url.rpartition("://")[2].rstrip("/")
    options = [("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
    options += [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        await _ready(channel, address)
        yield GrpcDriver(ModelResponseStub(channel), target)  # type: ignore[no-untyped-call]


class GrpcDriver:
    """GeneratorReplyStream; `generated_tokens` of a reply counts all tokens so far."""

    def __init__(self, stub: ModelResponseStub, target: Target) -> None:
        key = os.environ.get(API_KEY_VARIABLE)
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._stub = stub
        self._target = target

    async def send(self, job: Job, record: Record) -> None:
        assert isinstance(job.prompt, str), "MII's API takes text"
        request = pb.MultiStringRequest(
            request=[job.prompt], query_kwargs=to_values(mii_options(job, self._target))
        )
        reason = ""
        try:
            call = self._stub.GeneratorReplyStream(
                request, timeout=self._target.timeout, metadata=self._metadata
            )
            async for message in call:
                reply = message.response[0]
                if reply.response:
                    record.arrivals.append(time.perf_counter())
                record.prompt_tokens = max(record.prompt_tokens, reply.prompt_tokens)
                record.new_tokens = max(record.new_tokens, reply.generated_tokens)
                reason = reply.finish_reason
        except grpc.aio.AioRpcError as error:
            raise RequestFailed(f"gRPC {error.code().name}: {error.details()}") from error
        check_finish(reason)


async def _ready(channel: grpc.aio.Channel, address: str) -> None:
    """Waits until the channel is connected."""
    state = channel.get_state(try_to_connect=True)
    deadline = time.monotonic() + CONNECT_SECONDS
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE or time.monotonic() > deadline:
            raise RequestFailed(f"nothing answers over gRPC at {address}; `mii serve MODEL` starts a server")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
