"""Whatever is sent to the real server, the answer is a clear 4xx, and it goes on serving others."""

import asyncio
import io
import json
import re
import socket
import subprocess
import sys

import grpc
import pytest

import mii
from mii.errors import InvalidRequest, MIIError, UnknownArgument

pytestmark = pytest.mark.slow

CHAT, COMPLETIONS, MII = "/v1/chat/completions", "/v1/completions", "/mii/smollm2"
LONG = "word " * 1500  # tokens; the server takes 1024


def chat(**fields):
    return CHAT, {"messages": [{"role": "user", "content": "hi"}]} | fields


def completion(**fields):
    return COMPLETIONS, {"prompt": "hi"} | fields


def prompts(**fields):
    return MII, {"prompts": "hi"} | fields


# What is sent; status; the field at fault. Bytes are sent as they are, the rest as JSON.
REFUSED = {
    # malformed JSON, invalid UTF-8: no field to name, but what is wrong
    "no JSON": ((CHAT, b"{"), 400, "JSON"),
    "empty body": ((COMPLETIONS, b""), 400, "JSON"),
    "trailing comma": ((MII, b'{"prompts": "hi",}'), 400, "JSON"),
    "an array": ((CHAT, b"[]"), 400, "object"),
    "invalid UTF-8": ((COMPLETIONS, b'{"prompt": "\xff"}'), 400, "JSON"),
    "half a character": ((CHAT, b'{"messages": [{"role": "user", "content": "\xe2\x82"}]}'), 400, "JSON"),
    "a lone surrogate": ((MII, b'{"prompts": "\\ud800"}'), 400, "JSON"),
    # wrong types
    "messages as text": (chat(messages="hi"), 400, "messages"),
    "content as number": (chat(messages=[{"role": "user", "content": 5}]), 400, "messages[0].content"),
    "temperature as text": (chat(temperature="hot"), 400, "temperature"),
    "max_tokens as text": (completion(max_tokens="5"), 400, "max_tokens"),
    "stream as text": (completion(stream="yes"), 400, "stream"),
    "prompt as object": (completion(prompt={"text": "hi"}), 400, "prompt"),
    "ids and text": (completion(prompt=[1, "hi"]), 400, "prompt[1]"),
    "prompts as number": (prompts(prompts=5), 400, "prompts"),
    "do_sample as text": (prompts(do_sample="no"), 400, "do_sample"),
    # unknown options and fields of OpenAI's that are not supported
    "unknown field": (chat(surprise=1), 400, "surprise"),
    "unknown option": (prompts(top_q=1), 400, "top_q"),
    "response_format": (chat(response_format={"type": "json_object"}), 400, "response_format.type"),
    "forced tool": (chat(tool_choice="required"), 400, "tool_choice"),
    "suffix": (completion(suffix="x"), 400, "suffix"),
    "best_of": (completion(best_of=2), 400, "best_of"),
    # lengths
    "prompt too long": (completion(prompt=LONG), 400, "prompt"),
    "ids too long": (completion(prompt=[504] * 1025), 400, "prompt"),
    "messages too long": (chat(messages=[{"role": "user", "content": LONG}]), 400, "messages"),
    "prompts too long": (prompts(prompts=LONG), 400, "prompts"),
    "no room": (completion(max_tokens=1024), 400, "max_tokens"),
    "max_length below the prompt": (prompts(prompts="a b c d e", max_length=4), 400, "max_length"),
    "max_length is the prompt": (prompts(prompts="hi", max_length=1), 400, "max_length"),
    "empty prompt": (completion(prompt=""), 400, "prompt"),
    "no ids": (completion(prompt=[]), 400, "prompt"),
    "no messages": (chat(messages=[]), 400, "messages"),
    "an empty prompt of two": (prompts(prompts=["hi", ""]), 400, "prompts[1]"),
    "id outside of the vocabulary": (completion(prompt=[49152]), 400, "prompt"),
    # values
    "top_p 0": (chat(top_p=0), 400, "top_p"),
    "top_p 0 of MII": (prompts(top_p=0), 400, "top_p"),
    "temperature below 0": (chat(temperature=-0.1), 400, "temperature"),
    "temperature below 0 of MII": (prompts(temperature=-0.1), 400, "temperature"),
    "infinite temperature": ((COMPLETIONS, b'{"prompt": "hi", "temperature": 1e999}'), 400, "temperature"),
    "n 0": (chat(n=0), 400, "n"),
    # names
    "unknown model": (chat(model="gpt-5"), 404, "model"),
    "unknown model for completions": (completion(model="gpt-5"), 404, "model"),
    "unknown deployment": (("/mii/other", {"prompts": "hi"}), 404, "deployment"),
    # size
    "20 MB": ((COMPLETIONS, b'{"prompt": "' + b"x" * 20_000_000 + b'"}'), 413, "body"),
}


@pytest.fixture
def still_serves(server, http):
    """A normal request is answered as ever."""

    async def ask():
        body = {"prompt": "The capital of France is", "max_tokens": 2, "temperature": 0}
        async with http.post(server.url + COMPLETIONS, json=body) as response:
            assert response.status == 200
            return (await response.json())["choices"][0]["text"] == " Paris."

    return ask


@pytest.mark.parametrize("case", REFUSED)
async def test_refused_with_the_field_named(server, http, still_serves, case):
    (path, body), status, field = REFUSED[case]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with http.post(server.url + path, data=io.BytesIO(data)) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert error["type"] == "invalid_request_error"
    assert re.split(r"[.\[]", field)[0] in error["message"]
    if field not in ("JSON", "object", "body"):
        assert error["param"] == field
    assert await still_serves()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stream_is_refused_with_a_status_too(server, http, stream):
    body = {"prompt": LONG, "stream": stream}
    async with http.post(server.url + COMPLETIONS, json=body) as response:
        assert (response.status, response.content_type) == (400, "application/json")


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"top_q": 1}, UnknownArgument, "top_q"),
        ({"top_p": 0}, InvalidRequest, "top_p"),
        ({"temperature": -1.0}, InvalidRequest, "temperature"),
        ({"max_length": 1}, InvalidRequest, "max_length"),
        ({"max_new_tokens": "5"}, InvalidRequest, "max_new_tokens"),
        ({"prompts": LONG}, InvalidRequest, "prompts"),
        ({"prompts": "x" * 20_000_000}, MIIError, "prompts"),
    ],
    ids=["unknown", "top_p", "temperature", "max_length", "type", "too long", "20 MB"],
)
async def test_refused_over_grpc(server, still_serves, options, error, field):
    host, port = server.target.split(":")
    with mii.client("smollm2", host=host, port=int(port)) as client, pytest.raises(error, match=field):
        client.generate(**({"prompts": "hi"} | options))
    assert await still_serves()


async def test_huge_prompts_hold_nobody_up(server, http, still_serves):
    """More of them than there are threads to tokenise with: each is refused, and nobody else waits."""
    body = json.dumps({"prompt": "hello you " * 1_500_000}).encode()

    async def ask():
        async with http.post(server.url + COMPLETIONS, data=io.BytesIO(body)) as response:
            return response.status, (await response.json())["error"]["param"]

    async with asyncio.timeout(20):  # unread; to tokenise them all takes half a minute
        asking = [asyncio.create_task(ask()) for _ in range(8)]
        assert await still_serves()
        assert await asyncio.gather(*asking) == [(400, "prompt")] * 8


async def test_not_protobuf_over_grpc(server, still_serves):
    async with grpc.aio.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/modelresponse.ModelResponse/GeneratorReply", None, None)
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"\xff\xff\xff")
    assert await still_serves()


@pytest.mark.parametrize("sent", [b"", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"], ids=["none", "half"])
async def test_200_silent_connections(server, still_serves, sent):
    silent = [socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(200)]
    try:
        for connection in silent:
            connection.sendall(sent)
        assert all(await asyncio.gather(*(still_serves() for _ in range(8))))
        assert server.ready
    finally:
        for connection in silent:
            connection.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        chat(max_tokens=900, ignore_eos=True),
        completion(max_tokens=900, ignore_eos=True),
        prompts(max_new_tokens=900, ignore_eos=True),
    ],
    ids=["chat", "completions", "mii"],
)
async def test_a_client_that_vanishes_stops_its_generation(
    server, still_serves, eventually, path, body, stream
):
    """900 tokens take many seconds; the engine is idle again long before."""
    before = server.metrics()["mii:generation_tokens_total"]
    data = json.dumps(body | {"stream": stream}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await eventually(lambda: server.running() == 1, "it runs")
    if stream:
        await reader.readuntil(b"data: ")
    writer.transport.abort()  # a reset: not even a goodbye
    await eventually(lambda: server.running() == 0, "it is aborted", 5)
    assert server.metrics()["mii:generation_tokens_total"] - before < 900
    assert server.metrics()["mii:kv_cache_usage_perc"] == 0
    assert await still_serves()


async def test_a_grpc_client_that_vanishes_stops_its_generation(server, still_serves, eventually):
    def generate():
        with mii.client("smollm2", host="127.0.0.1", port=int(server.target.split(":")[1])) as client:
            client.generate("hi", streaming_fn=leave, max_new_tokens=900, ignore_eos=True)

    def leave(_):
        raise ConnectionError("enough")

    with pytest.raises(ConnectionError):
        await asyncio.to_thread(generate)
    await eventually(lambda: server.running() == 0, "it is aborted", 5)
    assert await still_serves()


def test_a_truncated_checkpoint_is_named(smollm2, tmp_path):
    """Every other broken checkpoint: tests/models/test_weights.py."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2.read_bytes()[:50_000_000])
    command = [sys.executable, "-m", "mii.cli", "serve", str(broken), "--port=0", "--grpc-port=0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert str(broken) in ended.stderr
    assert "Traceback" not in ended.stderr
