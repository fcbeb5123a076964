"""POST /v1/chat/completions through OpenAI's own client."""

import asyncio
import json

import openai
import pytest

MODEL = "org/tiny"
HELLO = [{"role": "user", "content": "hello"}]


async def test_answers_with_usage(client, engine):
    engine.answer = "Bonjour"
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
    choice = answer.choices[0]
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (
        "Bonjour", "assistant", "stop",
    )  # fmt: skip
    assert answer.usage.completion_tokens == len("Bonjour") + 1  # with EOS
    assert answer.usage.prompt_tokens == len(engine.prompts[0])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens // 2
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint.startswith("fp_")


async def test_streams_role_then_text_then_reason(client, engine):
    engine.answer = "Hi é"
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, max_tokens=50)
    chunks = [chunk async for chunk in stream]
    assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == ("assistant", "")
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1])
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].object == "chat.completion.chunk"
    assert all(chunk.usage is None for chunk in chunks)


async def test_streams_usage_at_the_end_on_request(client, engine):
    engine.answer = "Hi"
    stream = await client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_several_choices_differ_by_seed(client):
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO, n=3, seed=0, max_tokens=2)
    assert [(c.index, c.message.content) for c in answer.choices] == [(0, "ab"), (1, "bc"), (2, "cd")]
    assert answer.usage.completion_tokens == 6


async def test_streamed_choices_can_be_told_apart(client):
    stream = await client.chat.completions.create(
        model=MODEL, messages=HELLO, n=3, seed=0, max_tokens=4, stream=True
    )
    texts = {0: "", 1: "", 2: ""}
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "abcd", 1: "bcde", 2: "cdef"}


async def test_random_seed_without_one(client, engine):
    for _ in range(2):
        await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    assert engine.params[0].sampling.seed != engine.params[1].sampling.seed


async def test_defaults_are_openais(client, engine):
    engine.answer = "x"
    await client.chat.completions.create(model=MODEL, messages=HELLO)
    sampling = engine.params[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)
    assert sampling.max_tokens == 2048 - len(engine.prompts[0])  # fills the context
    assert sampling.eos_token_ids == (257,)


async def test_options_reach_the_engine(client, engine):
    await client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_completion_tokens=3,
        temperature=0,
        top_p=0.5,
        presence_penalty=0.25,
        frequency_penalty=-0.25,
        logit_bias={"97": -100},
        seed=7,
        stop="zz",
        user="me",
        metadata={"a": "b"},
        store=False,
        parallel_tool_calls=True,
        extra_body={
            "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True, "min_tokens": 2,
            "stop_token_ids": [5], "include_stop_str_in_output": True, "skip_special_tokens": False,
            "cache_salt": "mine", "response_format": {"type": "text"},
        },
    )  # fmt: skip
    params, sampling = engine.params[0], engine.params[0].sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.temperature, sampling.seed) == (3, 2, 0, 7)
    assert (sampling.top_k, sampling.top_p, sampling.min_p) == (4, 0.5, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -0.25)
    assert sampling.repetition_penalty == 1.1
    assert (sampling.logit_bias, sampling.stop_token_ids, sampling.ignore_eos) == ({97: -100.0}, (5,), True)
    assert (params.stop, params.include_stop_str, params.skip_special_tokens) == (("zz",), True, False)
    assert engine.salts == ["mine"]


async def test_template_sees_messages_tools_and_extras(client, engine):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    await client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ],
        tools=[tool],
        max_tokens=1,
        extra_body={"chat_template_kwargs": {"thinking": False}, "add_generation_prompt": False},
    )
    seen = json.loads(engine.prompt_texts[0])
    assert [message["role"] for message in seen["messages"]] == ["system", "user", "assistant", "tool"]
    assert seen["messages"][1]["content"] == "a\nb"
    assert seen["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert seen["messages"][3]["tool_call_id"] == "1"
    assert seen["tools"] == [tool]
    assert seen["extra"] == {"thinking": False}
    assert seen["generate"] is False


async def test_tool_choice_none_hides_the_tools(client, engine):
    tool = {"type": "function", "function": {"name": "add"}}
    await client.chat.completions.create(
        model=MODEL, messages=HELLO, tools=[tool], tool_choice="none", max_tokens=1
    )
    assert json.loads(engine.prompt_texts[0])["tools"] is None


async def test_a_template_that_refuses_is_a_bad_request(client):
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model=MODEL, messages=[{"role": "tool", "tool_call_id": "1", "content": "2"}]
        )
    assert refused.value.param == "messages"


async def test_an_answer_can_be_sent_back(client):
    """A client appends the message it got, as it got it."""
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2)
    message = answer.choices[0].message.model_dump()
    again = await client.chat.completions.create(
        model=MODEL, messages=[*HELLO, message, *HELLO], max_tokens=2
    )
    assert again.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs(client, engine, stream):
    engine.answer = "Hé"
    answer = await client.chat.completions.create(
        model=MODEL, messages=HELLO, logprobs=True, top_logprobs=2, stream=stream
    )
    parts = [chunk async for chunk in answer] if stream else [answer]
    content = [entry for part in parts for c in part.choices if c.logprobs for entry in c.logprobs.content]
    assert [entry.token for entry in content] == ["H", "�", "�", "</s>"]
    assert bytes(b for entry in content[:3] for b in entry.bytes).decode() == "Hé"
    assert [top.logprob for top in content[0].top_logprobs] == [-0.5, -1.5]
    assert content[0].top_logprobs[1].token == "I"


async def test_synchronous_client_is_served_too(server, engine):
    engine.answer = "Oui"

    def ask() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(model=MODEL, messages=HELLO)
            stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
            pieces = [c.choices[0].delta.content or "" for c in stream]
        return whole.choices[0].message.content, "".join(pieces)

    assert await asyncio.to_thread(ask) == ("Oui", "Oui")


async def test_stop_strings_end_the_answer(client, engine):
    engine.answer = "one two three"
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO, stop=[" three", "never"])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content.startswith("one two")
    assert answer.choices[0].model_extra["stop_reason"] == " three"
