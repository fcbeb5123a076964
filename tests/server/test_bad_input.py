"""Whatever is sent, the answer is a clear 4xx in OpenAI's shape, and the server goes on serving."""

import asyncio
import io
import json
import re
from typing import Any

import openai
import pytest

MODEL = "org/tiny"
CHAT, COMPLETIONS, MII = "/v1/chat/completions", "/v1/completions", "/mii/tiny-deployment"
HI = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"messages": HI} | fields


def completion(**fields: Any) -> tuple[str, dict[str, Any]]:
    return COMPLETIONS, {"prompt": "hi"} | fields


def mii(**fields: Any) -> tuple[str, dict[str, Any]]:
    return MII, {"prompts": "hi"} | fields


REFUSED = [
    # unsupported or unknown fields
    (chat(functions=[]), "functions"),
    (chat(function_call="auto"), "function_call"),
    (chat(audio={"voice": "x"}), "audio"),
    (chat(modalities=["text", "audio"]), "modalities[1]"),
    (chat(response_format={"type": "json_object"}), "response_format.type"),
    (chat(response_format={"type": "json_schema", "json_schema": {}}), "response_format.type"),
    (chat(tool_choice="required"), "tool_choice"),
    (chat(tool_choice={"type": "function", "function": {"name": "f"}}), "tool_choice"),
    (chat(reasoning_effort="low"), "reasoning_effort"),
    (chat(store=True), "store"),
    (chat(service_tier="flex"), "service_tier"),
    (chat(prediction={"type": "content", "content": "x"}), "prediction"),
    (chat(guided_json={}), "guided_json"),
    (chat(prompt_logprobs=1), "prompt_logprobs"),
    (chat(surprise=1), "surprise"),
    (completion(suffix="x"), "suffix"),
    (completion(best_of=3, n=2), "best_of"),
    (completion(best_of=2), "best_of"),
    (completion(stream=True, stream_options={"continuous_usage_stats": True}),
     "stream_options.continuous_usage_stats"),
    (mii(top_q=1), "top_q"),
    # wrong types
    (chat(messages="hi"), "messages"),
    (chat(messages=[]), "messages"),
    (chat(messages=[{"role": "wizard", "content": "x"}]), "messages[0].role"),
    (chat(messages=[{"role": "user"}]), "messages[0].content"),
    (chat(messages=[{"role": "user", "content": 5}]), "messages[0].content"),
    (chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
     "messages[0].content[0].type"),
    (chat(messages=[{"role": "user", "content": "x", "tool_calls": [
        {"id": "1", "function": {"name": "f", "arguments": "{}"}}]}]), "messages[0].tool_calls"),
    (chat(messages=[{"role": "assistant", "tool_calls": [
        {"id": "1", "function": {"name": "f", "arguments": "{"}}]}]),
     "messages[0].tool_calls[0].function.arguments"),
    (chat(temperature="hot"), "temperature"),
    (chat(max_tokens=True), "max_tokens"),
    (chat(max_tokens=1.5), "max_tokens"),
    (chat(stream="yes"), "stream"),
    (chat(stop=5), "stop"),
    (chat(logit_bias={"x": 1}), "logit_bias.x"),
    (completion(prompt={"text": "x"}), "prompt"),
    (completion(prompt=None), "prompt"),
    (completion(prompt=[1, "a"]), "prompt[1]"),
    (completion(prompt=[[1], ["a"]]), "prompt[1][0]"),
    (mii(prompts=5), "prompts"),
    (mii(prompts=["a", 5]), "prompts[1]"),
    (mii(do_sample="no"), "do_sample"),
    # out of range
    (chat(temperature=-1), "temperature"),
    (chat(top_p=0), "top_p"),
    (chat(top_p=1.1), "top_p"),
    (chat(n=0), "n"),
    (chat(n=129), "n"),
    (chat(max_tokens=0), "max_tokens"),
    (chat(max_tokens=5, max_completion_tokens=6), "max_tokens"),
    (chat(top_logprobs=2), "top_logprobs"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    (chat(min_tokens=6, max_tokens=5), "min_tokens"),
    (chat(presence_penalty=2.5), "presence_penalty"),
    (chat(repetition_penalty=0), "repetition_penalty"),
    (chat(logit_bias={"999": 1}), "logit_bias"),
    (chat(logit_bias={str(token): 1 for token in range(1025)}), "logit_bias"),
    (chat(stop_token_ids=[258]), "stop_token_ids"),
    (chat(stop=[""]), "stop[0]"),
    (chat(stop=["x"] * 17), "stop"),
    (chat(stream_options={"include_usage": True}), "stream_options"),
    (completion(logprobs=21), "logprobs"),
    (mii(top_p=0), "top_p"),
    (mii(temperature=-0.5), "temperature"),
    (mii(top_k=0), "top_k"),
    (mii(max_new_tokens=0), "max_new_tokens"),
    (mii(min_new_tokens=10, max_new_tokens=5), "min_new_tokens"),
    # lengths
    (completion(prompt=""), "prompt"),
    (completion(prompt=[]), "prompt"),
    (completion(prompt=["a", ""]), "prompt[1]"),
    (completion(prompt=[[]]), "prompt[0]"),
    (completion(prompt=[-1]), "prompt[0]"),
    (completion(prompt=[258]), "prompt"),
    (completion(prompt="x" * 3000), "prompt"),
    (completion(prompt=[97] * 2048), "prompt"),
    (completion(max_tokens=2047), "max_tokens"),
    (completion(prompt=["a"] * 2049), "prompt"),
    (chat(max_completion_tokens=2048), "max_completion_tokens"),
    (chat(messages=[{"role": "user", "content": "x" * 3000}]), "messages"),
    (mii(prompts=""), "prompts"),
    (mii(prompts=[]), "prompts"),
    (mii(max_length=2), "max_length"),
    (mii(max_length=4096), "max_length"),
    (mii(prompts="x" * 1500), "max_length"),
    (mii(prompts="x" * 3000), "prompts"),
    (mii(max_new_tokens=2047), "max_new_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "param"), REFUSED, ids=[f"{case[0][0]} {case[1]} {i}" for i, case in enumerate(REFUSED)]
)
async def test_refused_with_the_field_named(http, engine, request_, param):
    path, body = request_
    async with http.post(path, json=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert re.split(r"[.\[]", param)[0] in error["message"]
    assert engine.prompts == []


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MII])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"3", b'"x"', b"\xff\xfe{}", b'{"prompt": "\xc3"}', b'{"prompt": "\\ud800"}', b"{}x"],
    ids=repr,
)
async def test_malformed_bodies(http, engine, path, body):
    async with http.post(path, data=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["message"]
    assert engine.prompts == []


FAULTY_LISTS = [
    (completion(prompt=[-1] * 1000), "prompt[0]"),
    (completion(prompt=[""] * 1000), "prompt[0]"),
    (completion(prompt=[[504], *[[]] * 1000]), "prompt[1]"),
    (completion(prompt=[[504, *[-1] * 1000]]), "prompt[0][1]"),
    (completion(stop=[5] * 1000), "stop[0]"),
    (completion(stop_token_ids=[-1] * 1000), "stop_token_ids[0]"),
    (chat(messages=[*HI, *[5] * 1000]), "messages[1]"),
    (chat(messages=[{"role": "user", "content": [5] * 1000}]), "messages[0].content[0]"),
    (chat(messages=[{"role": "assistant", "tool_calls": [5] * 1000}]), "messages[0].tool_calls[0]"),
    (chat(tools=[5] * 1000), "tools[0]"),
    (chat(modalities=["audio"] * 1000), "modalities[0]"),
    (mii(prompts=[5] * 1000), "prompts[0]"),
    (mii(stop=[5] * 1000), "stop[0]"),
]


@pytest.mark.parametrize(("request_", "param"), FAULTY_LISTS, ids=[case[1] for case in FAULTY_LISTS])
async def test_a_list_is_read_up_to_its_first_fault(http, request_, param):
    """To note every fault of a body of 16 MB would hold up everybody else for half a minute."""
    path, body = request_
    async with http.post(path, json=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["param"] == param
    assert "more" not in error["message"]


@pytest.mark.parametrize("case", [completion(), chat(), mii()], ids=["completion", "chat", "mii"])
async def test_faults_beyond_counting_are_counted_only(http, case):
    path, body = case
    async with http.post(path, json=body | {f"surprise{i}": 1 for i in range(2000)}) as response:
        assert response.status == 400
        assert "2000 fields are wrong or unknown" in (await response.json())["error"]["message"]


async def test_tool_arguments_nested_too_deep(http):
    calls = [{"id": "1", "function": {"name": "f", "arguments": "[" * 100_000}}]
    async with http.post(CHAT, json={"messages": [{"role": "assistant", "tool_calls": calls}]}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_encoded_as_it_says(http, encoding):
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    async with http.post(COMPLETIONS, data=b'{"prompt": "hi"}', headers=headers, compress=False) as response:
        assert response.status == 400
        assert "Content-Encoding" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_numbers_that_are_none(http, number):
    async with http.post(CHAT, data=f'{{"messages": {json.dumps(HI)}, "temperature": {number}}}') as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "temperature"


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_of_20_mb(http, chunked):
    async def pieces():
        for _ in range(20):
            yield b"x" * 1024 * 1024

    body = pieces() if chunked else io.BytesIO(b"x" * 20 * 1024 * 1024)
    async with http.post(COMPLETIONS, data=body) as response:
        assert response.status == 413
        assert (await response.json())["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/chat", 404),
        ("GET", "/terminate", 404),
        ("POST", "/mii/other", 404),
        ("GET", "/v1/models/other", 404),
    ],
)
async def test_wrong_method_or_path(http, method, path, status):
    body = {"prompts": "x"} if method == "POST" else None
    async with http.request(method, path, json=body) as response:
        assert response.status == status
        assert (await response.json())["error"]["message"]
        assert status != 405 or response.headers["Allow"]


async def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-5", messages=HI)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert MODEL in str(missing.value)


async def test_openai_client_raises_its_own_error(client):
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model=MODEL, prompt="hi", top_p=0)
    assert refused.value.param == "top_p"
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_not_http(raw, garbage):
    status, _ = await raw(garbage)
    assert status == 400


async def test_nulls_are_absent_fields(http, engine):
    fields = [
        "temperature",
        "top_p",
        "n",
        "stop",
        "logit_bias",
        "functions",
        "tools",
        "seed",
        "stream_options",
    ]
    async with http.post(CHAT, json={"messages": HI, "max_tokens": 1} | dict.fromkeys(fields)) as response:
        assert response.status == 200
    assert engine.params[0].sampling.temperature == 1.0


async def test_an_engine_error_is_told(http, engine):
    engine.fail_at = 2
    async with http.post(COMPLETIONS, json={"prompt": "hi"}) as response:
        assert response.status == 500
        assert "NaN in the logits" in (await response.json())["error"]["message"]


async def test_a_bug_is_not_leaked(http, engine, caplog):
    engine.crash_at = 2
    async with http.post(COMPLETIONS, json={"prompt": "hi"}) as response:
        assert response.status == 500
        text = await response.text()
        request_id = response.headers["X-Request-Id"]
    assert "secret" not in text
    assert request_id in text
    assert any(record.exc_info and request_id in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("case", [completion(), chat(), mii()], ids=["completion", "chat", "mii"])
@pytest.mark.parametrize("prompts", [1, 2])
async def test_an_error_in_mid_stream_is_an_event(http, engine, sse, case, prompts):
    engine.fail_at = 2
    path, body = case
    if "messages" not in body:
        body = {
            name: ["hi"] * prompts if name.startswith("prompt") else value for name, value in body.items()
        }
    async with http.post(path, json=body | {"stream": True}) as response:
        assert response.status == 200
        events = [event async for event in sse(response)]
    assert "NaN in the logits" in events[-1]["error"]["message"]
    assert len(events) > 1
    assert engine.running == set()


async def test_openai_client_sees_an_error_in_mid_stream(client, engine):
    engine.fail_at = 2
    stream = await client.completions.create(model=MODEL, prompt="hi", stream=True)
    with pytest.raises(openai.APIError, match="NaN in the logits"):
        async for _ in stream:
            pass


async def test_an_error_before_the_first_token_has_a_status(client, engine):
    engine.fail_at = 0
    with pytest.raises(openai.InternalServerError, match="NaN in the logits"):
        await client.completions.create(model=MODEL, prompt="hi", stream=True)


async def test_one_failure_touches_no_other(http, engine):
    """Good requests run among bad ones and all succeed."""

    async def post(path: str, body: Any) -> int:
        async with http.post(path, json=body) as response:
            await response.read()
            return response.status

    good = [post(*completion(max_tokens=20)) for _ in range(20)]
    bad = [post(path, body) for (path, body), _ in REFUSED]
    statuses = await asyncio.gather(*good, *bad)
    assert statuses[:20] == [200] * 20
    assert set(statuses[20:]) == {400}
