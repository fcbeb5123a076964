"""POST /v1/completions through OpenAI's own client."""

import pytest

MODEL = "org/tiny"


async def test_answers_with_usage(client, engine):
    engine.answer = " world"
    answer = await client.completions.create(model=MODEL, prompt="hello")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" world", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 7)
    assert (answer.object, answer.model) == ("text_completion", MODEL)
    assert answer.id.startswith("cmpl-")


async def test_default_length_is_16(client):
    answer = await client.completions.create(model=MODEL, prompt="hello")
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


async def test_default_length_shrinks_to_the_room_left(client):
    answer = await client.completions.create(model=MODEL, prompt=[97] * 2040)
    assert answer.usage.completion_tokens == 8


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("abc", ["abc"]),
        (["abc", "de"], ["abc", "de"]),
        ([97, 98], ["ab"]),
        ([[97, 98], [99]], ["ab", "c"]),
    ],
    ids=["text", "texts", "ids", "id lists"],
)
async def test_every_kind_of_prompt(client, engine, prompt, expected):
    answer = await client.completions.create(model=MODEL, prompt=prompt, max_tokens=1)
    assert sorted(engine.prompt_texts) == sorted(expected)
    assert [choice.index for choice in answer.choices] == list(range(len(expected)))
    assert answer.usage.prompt_tokens == sum(map(len, expected))


async def test_choices_follow_their_prompts(client):
    answer = await client.completions.create(
        model=MODEL, prompt=["x", "y"], n=2, best_of=2, seed=0, max_tokens=2, echo=True
    )
    assert [choice.text for choice in answer.choices] == ["xab", "xbc", "ycd", "yde"]
    assert answer.usage.prompt_tokens == 2


async def test_streams_several_prompts(client):
    stream = await client.completions.create(
        model=MODEL,
        prompt=["x", "y"],
        seed=0,
        max_tokens=3,
        echo=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, usage, reasons = {0: "", 1: ""}, [], {}
    async for chunk in stream:
        usage.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == {0: "xabc", 1: "ybcd"}
    assert reasons == {0: "length", 1: "length"}
    assert (usage[-1].prompt_tokens, usage[-1].completion_tokens) == (2, 6)
    assert not any(usage[:-1])


async def test_logprobs_of_new_tokens(client, engine):
    engine.answer = "hé"
    answer = await client.completions.create(model=MODEL, prompt="x", logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["h", "bytes:\\xc3", "bytes:\\xa9", "</s>"]
    assert logprobs.token_logprobs == [-0.5] * 4
    assert logprobs.top_logprobs[0] == {"h": -0.5, "i": -1.5}
    assert logprobs.text_offset == [0, 1, 1, 2]  # "é" appears with its second byte; EOS has no text


async def test_chosen_token_is_among_the_top(client):
    answer = await client.completions.create(model=MODEL, prompt="x", logprobs=0, seed=0, max_tokens=1)
    assert answer.choices[0].logprobs.top_logprobs == [{"a": -0.5}]


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
async def test_scores_prompts_as_lm_eval_asks(client, max_tokens, stream):
    """lm-eval's `local-completions` reads token_logprobs and top_logprobs at [context:-1]."""
    answer = await client.completions.create(
        model=MODEL,
        prompt=[[97, 98, 99], [100, 101]],
        echo=True,
        logprobs=1,
        max_tokens=max_tokens,
        temperature=0,
        seed=0,
        stream=stream,
    )
    parts = [chunk async for chunk in answer] if stream else [answer]
    choices = {choice.index: choice for part in parts for choice in part.choices}
    first = choices[0]
    assert first.text == "abc" + "a" * max_tokens
    assert first.logprobs.tokens == list("abc" + "a" * max_tokens)
    assert first.logprobs.token_logprobs == [None] + [-0.5] * (2 + max_tokens)
    assert first.logprobs.top_logprobs[0] is None
    assert first.logprobs.top_logprobs[1] == {"b": -0.5}
    assert first.logprobs.text_offset == list(range(3 + max_tokens))
    assert first.finish_reason == "length"
    assert choices[1].text == "de" + "b" * max_tokens


async def test_a_prompt_that_fills_the_model_can_be_scored(client):
    answer = await client.completions.create(
        model=MODEL, prompt=[97] * 2048, echo=True, logprobs=1, max_tokens=0
    )
    assert len(answer.choices[0].logprobs.tokens) == 2048


async def test_echo_hides_special_tokens_unless_asked(client):
    prompt = [256, 97]
    hidden = await client.completions.create(model=MODEL, prompt=prompt, echo=True, max_tokens=0, logprobs=0)
    shown = await client.completions.create(
        model=MODEL, prompt=prompt, echo=True, max_tokens=0, extra_body={"skip_special_tokens": False}
    )
    assert (hidden.choices[0].text, shown.choices[0].text) == ("a", "<s>a")
    assert hidden.choices[0].logprobs.tokens == ["<s>", "a"]
    assert hidden.choices[0].logprobs.text_offset == [0, 0]


async def test_tiny_temperature_is_greedy(client, engine):
    await client.completions.create(model=MODEL, prompt="x", temperature=1e-9, max_tokens=1)
    assert engine.params[0].sampling.temperature == 0


async def test_models_are_listed(client):
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == [MODEL]
    assert (await client.models.retrieve(MODEL)).model_extra["max_model_len"] == 2048
