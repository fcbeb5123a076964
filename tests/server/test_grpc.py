"""MII's gRPC service through its generated stubs."""

import asyncio

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mii.server.proto.modelresponse_pb2 import List, MultiStringRequest, Value
from mii.server.proto.modelresponse_pb2_grpc import ModelResponseStub

NAME = "modelresponse.ModelResponse"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return ModelResponseStub(channel)


def ask(*prompts: str, **options: Value) -> MultiStringRequest:
    return MultiStringRequest(request=prompts, query_kwargs=options)


async def refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value


async def health(channel, name: str = NAME) -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    return (await health_pb2_grpc.HealthStub(channel).Check(request)).status


async def test_replies_to_prompts(stub):
    reply = await stub.GeneratorReply(
        ask(
            "x",
            "yy",
            max_new_tokens=Value(ivalue=2),
            return_full_text=Value(bvalue=True),
            seed=Value(ivalue=0),
        )
    )
    assert [part.response for part in reply.response] == ["xab", "yybc"]
    first = reply.response[0]
    assert (first.prompt_tokens, first.generated_tokens, first.finish_reason) == (1, 2, "length")
    assert (first.time_taken, first.model_time_taken) == (0.25, 0.125)  # as the engine measured


async def test_options_of_every_kind(stub, engine):
    await stub.GeneratorReply(
        ask(
            "x",
            max_new_tokens=Value(ivalue=2),
            top_p=Value(fvalue=0.5),
            temperature=Value(dvalue=0.7),
            do_sample=Value(bvalue=True),
            stop=Value(lvalue=List(values=[Value(svalue="!"), Value(svalue="?")])),
        )
    )
    sampling = engine.params[0].sampling
    assert (sampling.max_tokens, sampling.top_p, sampling.temperature) == (2, 0.5, 0.7)
    assert engine.params[0].stop == ("!", "?")


async def test_streams_lists_by_prompt(stub):
    call = stub.GeneratorReplyStream(
        ask("x", "y", max_new_tokens=Value(ivalue=3), stream=Value(bvalue=True), seed=Value(ivalue=0))
    )
    lists = [message.response async for message in call]
    assert {len(replies) for replies in lists} == {2}
    assert ["".join(replies[i].response for replies in lists) for i in range(2)] == ["abc", "bcd"]
    assert [reply.finish_reason for reply in lists[-1]] == ["length", "length"]
    assert lists[0][0].finish_reason == "none"
    assert lists[-1][1].model_time_taken == 0.125


@pytest.mark.parametrize(
    ("prompts", "options", "named"),
    [
        (["x"], {"top_q": Value(ivalue=1)}, "top_q"),
        (["x"], {"top_p": Value(fvalue=0)}, "top_p"),
        (["x"], {"max_length": Value(svalue="9")}, "max_length"),
        (["x"], {"max_length": Value()}, "max_length"),
        (["xyz"], {"max_length": Value(ivalue=3)}, "max_length"),
        (["x"], {"stream": Value(bvalue=True)}, "GeneratorReplyStream"),
        ([], {}, "prompts"),
        (["x", ""], {}, "prompts"),
        (["x" * 5000], {}, "prompts"),
    ],
)
async def test_invalid_arguments_are_named(stub, engine, prompts, options, named):
    error = await refusal(stub.GeneratorReply(ask(*prompts, **options)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert named in error.details()
    assert engine.prompts == []


async def test_a_stream_is_refused_alike(stub):
    error = await refusal(stub.GeneratorReplyStream(ask("x", top_q=Value(ivalue=1))).read())
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "top_q" in error.details()


async def test_engine_errors_are_told_and_bugs_are_not(stub, engine, caplog):
    engine.fail_at = 1
    error = await refusal(stub.GeneratorReply(ask("x")))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "NaN in the logits")
    engine.fail_at, engine.crash_at = None, 1
    error = await refusal(stub.GeneratorReply(ask("x")))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert "secret" in caplog.text


@pytest.mark.parametrize("method", ["GeneratorReply", "GeneratorReplyStream"])
async def test_cancelling_aborts_the_generation(stub, engine, until, method):
    engine.held_from = 3
    engine.gate.clear()
    call = getattr(stub, method)(ask("x", "y"))
    reading = asyncio.ensure_future(call.read() if method.endswith("Stream") else asyncio.wait_for(call, 60))
    await until(lambda: len(engine.running) == 2)
    call.cancel()
    await until(lambda: len(engine.aborted) == 2)
    await asyncio.gather(reading, return_exceptions=True)


async def test_messages_may_be_large(stub):
    """Above gRPC's own 4 MB: it reaches the check of the prompt's length."""
    error = await refusal(stub.GeneratorReply(ask("x" * 6_000_000)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "6000000 characters" in error.details()


async def test_health_follows_the_server(start_server):
    loaded = asyncio.Event()
    server = await start_server(loaded=loaded.wait())
    async with grpc.aio.insecure_channel(server.target) as channel:
        assert await health(channel) == NOT_SERVING
        error = await refusal(ModelResponseStub(channel).GeneratorReply(ask("x")))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == NOT_SERVING
        loaded.set()
        assert (await watch.read()).status == SERVING
        assert await health(channel) == SERVING


async def test_reflection_lists_the_service(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([request])):
        names = {service.name for service in answer.list_services_response.service}
    assert {NAME, "grpc.health.v1.Health"} <= names


@pytest.mark.parametrize("token", [None, "wrong", ""])
async def test_terminate_needs_the_owner(start_server, tmp_path, token):
    (tmp_path / "token").write_text("secret\n")
    server = await start_server(owner_token_file=str(tmp_path / "token"))
    metadata = None if token is None else (("mii-owner-token", token),)
    async with grpc.aio.insecure_channel(server.target) as channel:
        error = await refusal(ModelResponseStub(channel).Terminate(Empty(), metadata=metadata))
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED
        assert await health(channel) == SERVING


async def test_terminate_without_an_owner_is_denied(stub):
    error = await refusal(stub.Terminate(Empty(), metadata=(("mii-owner-token", ""),)))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_an_owner_whose_token_is_not_there_is_nobody(start_server, tmp_path):
    server = await start_server(owner_token_file=str(tmp_path / "token"))
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = ModelResponseStub(channel)
        error = await refusal(stub.Terminate(Empty(), metadata=(("mii-owner-token", "secret"),)))
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_the_owner_terminates(start_server, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    server = await start_server(owner_token_file=str(tmp_path / "token"))
    async with grpc.aio.insecure_channel(server.target) as channel:
        await ModelResponseStub(channel).Terminate(Empty(), metadata=(("mii-owner-token", "secret"),))
        assert await server.task == 0


async def test_draining_refuses_new_calls_and_finishes_open_ones(server, engine, until):
    engine.held_from = 2
    engine.gate.clear()
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = ModelResponseStub(channel)
        call = stub.GeneratorReplyStream(ask("x", max_new_tokens=Value(ivalue=4), seed=Value(ivalue=0)))
        first = await call.read()
        server.server.service.stop_requested.set()
        await until(lambda: not server.server.service.ready)
        assert await health(channel) == NOT_SERVING
        error = await refusal(stub.GeneratorReply(ask("x")))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in error.details()
        engine.gate.set()
        text = first.response[0].response
        while (message := await call.read()) is not grpc.aio.EOF:
            text += message.response[0].response
    assert text == "abcd"
    assert await server.task == 0


async def test_a_dead_engine_is_unavailable(stub, engine, until):
    engine.gate.clear()
    call = asyncio.ensure_future(asyncio.wait_for(stub.GeneratorReply(ask("x")), 60))
    await until(lambda: engine.running)
    engine.die("killed by SIGKILL")
    error = await refusal(call)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "killed by SIGKILL" in error.details()
