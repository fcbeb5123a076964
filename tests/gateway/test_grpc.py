"""The gRPC proxy."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

METHOD = "/modelresponse.ModelResponse/GeneratorReply"
STREAM = "/modelresponse.ModelResponse/GeneratorReplyStream"
STREAM = "/modelresponse.ModelResponse/GeneratorReplyStream"
TERMINATE = "/modelresponse.ModelResponse/Terminate"


@pytest.fixture
async def pair(start_replica):
    return await start_replica(), await start_replica()


@pytest.fixture
async def gateway(start_gateway, pair):
    return await start_gateway(*pair)


@pytest.fixture
async def client(gateway, channel):
    return await channel(gateway.grpc_target)


def both(pair, respond):
    for replica in pair:
        replica.respond_grpc = respond


def calls(pair):
    return [call for replica in pair for call in replica.calls]


async def fail_with(client, method=METHOD, **options):
    """The error of a unary call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.unary_unary(method)(b"request", **options)
    return error.value


async def test_unary(client, pair):
    assert await client.unary_unary(METHOD)(b"\x00any bytes\xff") == b"\x00any bytes\xff"
    [(method, _)] = calls(pair)
    assert method == METHOD


async def test_server_stream_passes_message_by_message(client, pair):
    turn = asyncio.Event()

    async def respond(messages, context):
        async for message in messages:
            for number in range(3):
                await context.write(message + b"%d" % number)
                await turn.wait()
                turn.clear()

    both(pair, respond)
    call = client.unary_stream(STREAM)(b"m")
    for number in range(3):
        assert await asyncio.wait_for(call.read(), 5) == b"m%d" % number
        turn.set()
    assert await call.read() is grpc.aio.EOF


async def test_both_sides_may_stream(client, pair):
    """As reflection does: each answer comes before the next question."""
    call = client.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
    for number in range(20):
        await call.write(b"%d" % number)
        assert await asyncio.wait_for(call.read(), 5) == b"%d" % number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_client_stream(client, pair):
    async def respond(messages, context):
        await context.write(b"+".join([message async for message in messages]))

    both(pair, respond)

    async def requests():
        for number in range(50):
            yield b"%d" % number

    assert await client.stream_unary(METHOD)(requests()) == b"+".join(b"%d" % n for n in range(50))


async def test_large_and_empty_messages(client, pair):
    large = bytes(64 * 2**20)
    assert await client.unary_unary(METHOD)(large) == large
    assert await client.unary_unary(METHOD)(b"") == b""


async def test_metadata_passes_both_ways(client, pair):
    async def respond(messages, context):
        await context.send_initial_metadata((("first", "1"),))
        context.set_trailing_metadata((("last", "2"), ("last-bin", b"\x00\xff")))
        await context.write(b"")

    both(pair, respond)
    sent = (("mine", "x"), ("mine-bin", b"\xff"), ("x-request-id", "id-1"), ("mii-owner-token", "secret"))
    call = client.unary_unary(METHOD)(b"", metadata=sent)
    await call
    assert ("first", "1") in tuple(await call.initial_metadata())
    assert {("last", "2"), ("last-bin", b"\x00\xff")} <= set(await call.trailing_metadata())
    [(_, received)] = calls(pair)
    assert (received["mine"], received["mine-bin"], received["x-request-id"]) == ("x", b"\xff", "id-1")
    assert "mii-owner-token" not in received


async def test_status_and_details_pass(client, pair, gateway, until):
    async def respond(messages, context):
        trailing = (("grpc-status-details-bin", b"\x08\x03"),)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "top_p must be in (0, 1]", trailing)

    both(pair, respond)
    error = await fail_with(client)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "top_p must be in (0, 1]"
    assert ("grpc-status-details-bin", b"\x08\x03") in tuple(error.trailing_metadata())
    assert len(calls(pair)) == 1
    sample = 'mii_gateway_requests_total{code="INVALID_ARGUMENT",protocol="grpc"}'

    async def counted():  # after the client has its status
        return await gateway.metric(sample) == 1

    await until(counted)


async def test_status_after_messages_passes(client, pair):
    async def respond(messages, context):
        await context.write(b"1")
        await context.abort(grpc.StatusCode.UNAVAILABLE, "too late to retry")

    both(pair, respond)
    call = client.unary_stream(STREAM)(b"")
    assert await call.read() == b"1"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert error.value.details() == "too late to retry"
    assert len(calls(pair)) == 1


async def hang(messages, context):
    await asyncio.Event().wait()


async def test_deadline_reaches_the_replica(client, pair, gateway, until):
    remaining = []

    async def respond(messages, context):
        remaining.append(context.time_remaining())
        await hang(messages, context)

    both(pair, respond)
    error = await fail_with(client, timeout=0.3)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0 < remaining[0] <= 0.31  # whole milliseconds travel, rounded up
    await until(lambda: sum(replica.left for replica in pair) == 1)
    await until(lambda: gateway.in_flight == 0)


async def test_cancel_reaches_the_replica(client, pair, gateway, until):
    async def respond(messages, context):
        await context.write(b"1")
        await hang(messages, context)

    both(pair, respond)
    call = client.unary_stream(STREAM)(b"")
    assert await call.read() == b"1"
    call.cancel()
    await until(lambda: sum(replica.left for replica in pair) == 1, seconds=1)
    await until(lambda: gateway.in_flight == 0)
    assert gateway.gateway.table.count()["ready"] == 2


async def test_cancel_before_the_first_message_reaches_the_replica(client, pair, gateway, until):
    both(pair, hang)
    call = client.unary_unary(METHOD)(b"")
    await until(lambda: calls(pair))
    call.cancel()
    await until(lambda: sum(replica.left for replica in pair) == 1, seconds=1)
    await until(lambda: gateway.gateway.lifecycle.open == 0)


async def test_a_refusal_is_the_next_replicas_call(client, pair, gateway):
    async def refuse(messages, context):
        pair[0].respond_grpc = pair[1].respond_grpc = pair[0]._echo
        await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    both(pair, refuse)
    assert await client.unary_unary(METHOD)(b"again") == b"again"
    assert [len(replica.calls) for replica in pair] == [1, 1]
    assert await gateway.metric('mii_gateway_retries_total{reason="refused"}') == 1


async def test_no_call_fails_while_replicas_die_and_return(client, pair, gateway, until):
    async def slow_echo(message):
        await asyncio.sleep(0.01)
        return message

    for replica in pair:
        replica.answer_unary = slow_echo
    stop, results = asyncio.Event(), []

    async def caller(number):
        while not stop.is_set():
            request = b"%d.%d" % (number, len(results))
            results.append(await client.unary_unary(METHOD)(request) == request)

    callers = [asyncio.create_task(caller(number)) for number in range(8)]
    for victim in pair:
        seen = len(results)
        await until(lambda seen=seen: len(results) > seen + 30)
        await victim.kill()
        seen = len(results)
        await until(lambda seen=seen: len(results) > seen + 30)
        await victim.start()
        await until(lambda: gateway.gateway.table.count()["ready"] == 2)
    stop.set()
    await asyncio.gather(*callers)
    assert all(results)
    assert all(replica.calls for replica in pair)
    assert gateway.in_flight == 0


async def test_a_reply_without_its_status_is_asked_for_again(client, pair, gateway):
    """A replica that is lost between the only message of an answer and its end has not answered."""

    async def reply_then_die(messages, context):
        await context.write(b"half")
        await victim.kill()

    victim, other = pair
    victim.respond_grpc = reply_then_die
    for number in range(8):  # until the victim's turn has come
        request = b"%d" % number
        assert await client.unary_unary(METHOD)(request) == request
    assert victim.calls
    assert other.calls
    assert gateway.in_flight == 0


async def test_a_stream_names_the_replica_that_was_lost(start_replica, start_gateway, channel):
    async def once_then_hang(messages, context):
        await context.write(b"first")
        await asyncio.Event().wait()

    replica = await start_replica()
    replica.respond_grpc = once_then_hang
    client = await channel((await start_gateway(replica)).grpc_target)
    call = client.unary_stream(STREAM)(b"x")
    assert await call.read() == b"first"
    await replica.kill()
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await asyncio.wait_for(call.read(), 5)
    assert f"replica 127.0.0.1:{replica.http_port} was lost while it answered" in lost.value.details()


async def test_a_call_outlives_the_only_replica(start_replica, start_gateway, channel, until):
    replica = await start_replica()
    client = await channel((await start_gateway(replica)).grpc_target)
    replica.respond_grpc = hang
    call = client.unary_unary(METHOD)(b"patient")
    await until(lambda: replica.calls)
    await replica.kill()
    replica.respond_grpc = replica._echo
    await replica.start()
    assert await asyncio.wait_for(call, 10) == b"patient"


async def test_no_replica_is_unavailable_and_a_full_queue_is_exhausted(
    start_replica, start_gateway, channel, until
):
    replica = await start_replica()
    replica.ready = False
    gateway = await start_gateway(replica, queue_max_requests=1, queue_timeout=0.5)
    client = await channel(gateway.grpc_target)
    waiting = asyncio.create_task(fail_with(client))
    await until(lambda: gateway.gateway.lifecycle.open == 1)
    async with gateway.post() as response:  # HTTP and gRPC wait in the same queue
        assert response.status == 429
    full = await fail_with(client)
    assert full.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1 requests" in full.details()
    in_vain = await waiting
    assert in_vain.code() is grpc.StatusCode.UNAVAILABLE
    assert "0.5 seconds" in in_vain.details()


async def test_silence_is_deadline_exceeded(pair, start_gateway, channel, until):
    gateway = await start_gateway(*pair, idle_timeout=0.1)
    both(pair, hang)
    error = await fail_with(await channel(gateway.grpc_target))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "0.1 seconds" in error.details()
    await until(lambda: sum(replica.left for replica in pair) == 1)


async def test_http_and_grpc_share_the_count(client, pair, gateway, until):
    both(pair, hang)
    call = client.unary_unary(METHOD)(b"")
    await until(lambda: calls(pair))
    idle = pair[1] if pair[0].calls else pair[0]
    for number in range(5):
        assert await gateway.answer(json={"n": number}) == (200, {"replica": idle.name})
    call.cancel()


async def test_health_is_the_gateways_own(client, pair, gateway, until):
    stub = health_pb2_grpc.HealthStub(client)
    response = health_pb2.HealthCheckResponse
    request = health_pb2.HealthCheckRequest(service="modelresponse.ModelResponse")
    watch = stub.Watch(request)
    assert (await watch.read()).status == response.SERVING
    for replica in pair:
        replica.ready = False
    assert (await asyncio.wait_for(watch.read(), 5)).status == response.NOT_SERVING
    pair[0].ready = True
    assert (await asyncio.wait_for(watch.read(), 5)).status == response.SERVING
    gateway.gateway.lifecycle.terminate()
    await gateway.gateway.grpc.drain(5)
    assert (await asyncio.wait_for(watch.read(), 5)).status == response.NOT_SERVING
    assert not calls(pair)
    watch.cancel()


@pytest.mark.parametrize("token", [None, "", "wrong", "s3cret "])
async def test_terminate_needs_the_owners_token(pair, start_gateway, channel, tmp_path, token):
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    gateway = await start_gateway(*pair, owner_token_file=str(file))
    metadata = [] if token is None else [("mii-owner-token", token)]
    error = await fail_with(await channel(gateway.grpc_target), TERMINATE, metadata=metadata)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert not gateway.gateway.lifecycle.draining
    assert not calls(pair)


@pytest.mark.parametrize("content", [None, "", "\n"])
async def test_without_a_token_nobody_is_the_owner(pair, start_gateway, channel, tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    for path, token in ((None, "x"), (str(file), "x"), (str(file), "")):
        gateway = await start_gateway(*pair, owner_token_file=path)
        metadata = [("mii-owner-token", token)]
        error = await fail_with(await channel(gateway.grpc_target), TERMINATE, metadata=metadata)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_owner_terminates(pair, start_gateway, channel, tmp_path):
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    gateway = await start_gateway(*pair, owner_token_file=str(file))
    client = await channel(gateway.grpc_target)
    reply = await client.unary_unary(TERMINATE)(b"", metadata=[("mii-owner-token", "s3cret")])
    assert reply == b""
    await asyncio.wait_for(gateway.gateway.lifecycle.terminated(), 5)
    assert not calls(pair)


async def test_clients_connect_anew_without_losing_a_call(start_gateway, pair, channel, monkeypatch):
    """So that they have left a gateway's pod before it stops."""
    monkeypatch.setattr("mii_gateway.grpc_server.CONNECTION_AGE", 0.2)
    gateway = await start_gateway(*pair)
    client = await channel(gateway.grpc_target)
    held = asyncio.Event()

    async def respond(messages, context):
        async for message in messages:
            await context.write(message)
            if message == b"long":
                await held.wait()

    both(pair, respond)
    await client.channel_ready()
    long = client.unary_stream(STREAM)(b"long")
    assert await long.read() == b"long"
    for _ in range(3):
        left = asyncio.ensure_future(client.wait_for_state_change(grpc.ChannelConnectivity.READY))
        while not left.done():
            assert await client.unary_unary(METHOD)(b"short", timeout=10) == b"short"
        await client.channel_ready()
    held.set()
    assert await long.read() is grpc.aio.EOF
