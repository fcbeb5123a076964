"""MIIClient against a gRPC server in this process."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

import mii
from mii.clients import MIIClient
from mii.errors import DeploymentNotFoundError, InvalidRequest, MIIError, ServerUnavailable, UnknownArgument
from mii.grpc_values import to_values
from mii.local import ports, state
from mii.local.state import Record
from mii.mii_config import parse_mii_config
from mii.response import Response
from mii.server.proto import modelresponse_pb2 as pb
from mii.server.proto.modelresponse_pb2_grpc import ModelResponseServicer, add_ModelResponseServicer_to_server


class FakeServer(ModelResponseServicer):
    """Answers every prompt with its upper case; `refuse` makes it fail instead."""

    def __init__(self):
        self.requests = []
        self.metadata = []
        self.refuse = None
        self.hang = False
        self.terminated_with = None

    def _take(self, request, context):
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refuse:
            context.abort(*self.refuse)

    def GeneratorReply(self, request, context):  # noqa: N802
        self._take(request, context)
        if self.hang:
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(20)
            self.hang = False
        return pb.MultiGenerationReply(
            response=[_reply(prompt.upper(), "stop") for prompt in request.request]
        )

    def GeneratorReplyStream(self, request, context):  # noqa: N802
        self._take(request, context)
        for letter in request.request[0]:
            yield pb.MultiGenerationReply(response=[_reply(letter, "none")])
        yield pb.MultiGenerationReply(response=[_reply("", "length")])

    def Terminate(self, request, context):  # noqa: N802
        self.terminated_with = dict(context.invocation_metadata()).get("mii-owner-token")
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")


def _reply(text, reason):
    return pb.SingleGenerationReply(response=text, finish_reason=reason, prompt_tokens=3, generated_tokens=5)


@pytest.fixture
def server():
    """The servicer and its port."""
    fake = FakeServer()
    running = grpc.server(ThreadPoolExecutor(8))
    add_ModelResponseServicer_to_server(fake, running)
    fake.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield fake
    running.stop(None).wait()


@pytest.fixture
def client(server):
    with mii.client("d", host="127.0.0.1", port=server.port) as client:
        yield client


def test_one_response_per_prompt_in_order(client):
    answers = client(["a", "b"])
    assert answers == [Response("A", 3, 5, "stop"), Response("B", 3, 5, "stop")]
    assert str(answers[0]) == repr(answers[0]) == "A"
    assert client.generate("c") == [Response("C", 3, 5, "stop")]


def test_options_travel_with_their_types(client, server):
    client("p", max_new_tokens=7, top_p=0.1, do_sample=False, stop=["x", "y"], seed=2**62, top_k=None)
    sent = server.requests[0].query_kwargs
    assert set(sent) == {"max_new_tokens", "top_p", "do_sample", "stop", "seed"}, "None is the default"
    assert (sent["max_new_tokens"].ivalue, sent["seed"].ivalue) == (7, 2**62)
    assert sent["top_p"].dvalue == 0.1, "not rounded to 32 bits"
    assert sent["do_sample"].WhichOneof("oneof_values") == "bvalue"
    assert [item.svalue for item in sent["stop"].lvalue.values] == ["x", "y"]


def test_dictionaries_nest():
    assert to_values({"a": {"b": 1}})["a"].mvalue.values["b"].ivalue == 1


@pytest.mark.parametrize(("option", "problem"), [(object(), "is a object"), (2**63, "does not fit 64 bits")])
def test_what_cannot_be_sent_is_named(client, server, option, problem):
    with pytest.raises(InvalidRequest, match=f"'temperature' {problem}"):
        client("p", temperature=option)
    assert not server.requests


@pytest.mark.parametrize("prompts", [[], "", ["a", ""], [1], ["\ud800"]])
def test_bad_prompts_are_not_sent(client, server, prompts):
    with pytest.raises(InvalidRequest):
        client(prompts)
    assert not server.requests


def test_streaming_calls_back_with_what_is_new(client):
    pieces = []
    assert client.generate("abc", streaming_fn=pieces.append) is None
    assert [piece[0].generated_text for piece in pieces] == ["a", "b", "c", ""]
    assert [piece[0].finish_reason for piece in pieces] == ["none"] * 3 + ["length"]


def test_streaming_takes_one_prompt(client):
    with pytest.raises(InvalidRequest, match="one prompt, got 2"):
        client(["a", "b"], streaming_fn=print)


@pytest.mark.parametrize(
    ("code", "details", "kind", "message"),
    [
        ("INVALID_ARGUMENT", "unknown option 'bogus'; there are: …", UnknownArgument, "'bogus'"),
        ("INVALID_ARGUMENT", "'top_p': should be more than 0", InvalidRequest, "top_p"),
        (
            "RESOURCE_EXHAUSTED",
            "the queue is full",
            MIIError,
            "'d' at .* answers RESOURCE_EXHAUSTED: the queue",
        ),
        ("UNAVAILABLE", "loading", ServerUnavailable, "no answer from 'd' at 127.0.0.1:.*: loading"),
    ],
)
@pytest.mark.parametrize("streaming_fn", [None, print])
def test_the_servers_refusals(client, server, code, details, kind, message, streaming_fn):
    server.refuse = (grpc.StatusCode[code], details)
    with pytest.raises(kind, match=message):
        client("p", streaming_fn)


def test_nobody_there_names_the_address():
    [port] = ports.free(1)
    with (
        mii.client("d", host="127.0.0.1", port=port) as client,
        pytest.raises(ServerUnavailable, match=f"127.0.0.1:{port}"),
    ):
        client("p")


def test_an_api_key_is_presented(server):
    with mii.client("d", host="127.0.0.1", port=server.port, api_key="secret") as client:
        client("p")
    assert server.metadata[0]["authorization"] == "Bearer secret"


async def test_async_calls_run_together(client):
    answers = await asyncio.gather(*(client.async_generate(word) for word in ("a", "b", "c")))
    assert [answer[0].generated_text for answer in answers] == ["A", "B", "C"]


async def test_async_errors_are_the_same(client, server):
    server.refuse = (grpc.StatusCode.INVALID_ARGUMENT, "unknown option 'x'")
    with pytest.raises(UnknownArgument):
        await client.async_generate("p", x=1)


async def test_cancelling_cancels_the_request(client, server, eventually):
    server.hang = True
    call = asyncio.create_task(client.async_generate("p"))
    await eventually(lambda: server.requests)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    await eventually(lambda: not server.hang, "the server's notice")


def record(server, *, name="d", pid=None):
    state.prepare(name)
    pid = pid or os.getpid()
    state.save(
        Record(
            name=name,
            model="org/model",
            pid=pid,
            started=state.process_start(pid),
            host="127.0.0.1",
            http_port=1,
            grpc_port=server.port,
            replicas=1,
            drain_timeout=1.0,
        )
    )


def test_found_by_name(server):
    record(server)
    with mii.client("d") as client:
        assert client("p")[0].generated_text == "P"
    with mii.client("org/model") as client:
        assert client.name == "d"


def test_an_unknown_name():
    with pytest.raises(DeploymentNotFoundError, match="'nobody'; running now: none"):
        mii.client("nobody")


def test_another_host_needs_a_port():
    with pytest.raises(DeploymentNotFoundError, match="needs port="):
        mii.client("d", host="gateway.example")


def test_from_a_configuration(server):
    config = parse_mii_config("org/model", None, None, {"port_number": server.port})
    with MIIClient(config) as client:
        assert (client.name, client.address) == ("org/model-mii-deployment", f"localhost:{server.port}")
        assert client("p")[0].generated_text == "P"


async def test_terminate_presents_the_token_and_falls_back_to_a_signal(server, eventually, alive):
    supervisor = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        record(server, pid=supervisor.pid)
        token = state.token_file("d").read_text()
        with mii.client("d") as client:
            await asyncio.to_thread(client.terminate_server)
        assert server.terminated_with == token
        assert await supervisor.wait() == -15
    finally:
        if supervisor.returncode is None:
            supervisor.kill()
    assert state.running() == []


def test_only_a_local_deployment_can_be_terminated(client):
    with pytest.raises(DeploymentNotFoundError, match="'d'"):
        client.terminate_server()


def test_a_deployment_elsewhere_is_not_confused_with_the_local_one(server, alive):
    record(server, pid=os.getpid())
    with (
        mii.client("d", host="192.0.2.1", port=server.port) as client,
        pytest.raises(DeploymentNotFoundError, match=r"192\.0\.2\.1"),
    ):
        client.terminate_server()
    assert server.terminated_with is None


def test_responses_as_dictionaries():
    response = Response("text", 1, 2, "length")
    assert response.to_msg_dict() == {
        "generated_text": "text",
        "prompt_length": 1,
        "generated_length": 2,
        "finish_reason": "length",
    }
    assert Response.from_msg_dict(response.to_msg_dict()) == response
