"""OpenAI's own client, unmodified, against the real model."""

import math

import openai
import pytest
import torch

pytestmark = pytest.mark.slow

MODEL = "smollm2"
TEXTS = ["The capital of France is", "Once upon a time", "Water freezes at"]
LONG = "The quick brown fox jumps over the lazy dog. " * 12  # more than one block of the KV cache


@pytest.fixture(scope="module")
def truth(smollm2):
    """The log-probabilities of each position's next token, by transformers on the same file."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
    ).eval()

    @torch.inference_mode()
    def logprobs(token_ids):  # [tokens, vocabulary]
        return model(torch.tensor([token_ids])).logits[0].log_softmax(-1)

    return logprobs


@pytest.fixture
def complete(client):
    def complete(prompt, **options):
        return client.completions.create(model=MODEL, prompt=prompt, **({"temperature": 0} | options))

    return complete


def ask(client, question, **options):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=MODEL, messages=messages, temperature=0, **options)


def test_chat(client, dialogue):
    question, expected = dialogue
    answer = ask(client, question)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", expected)
    assert (choice.finish_reason, answer.model) == ("stop", MODEL)
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (42, 8, 50)


def test_chat_follows_the_conversation(client):
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "My name is Zebedee."},
        {"role": "assistant", "content": [{"type": "text", "text": "Nice to meet you, Zebedee."}]},
        {"role": "user", "content": "What is my name?"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=24)
    assert "Zebedee" in answer.choices[0].message.content


def test_chat_streams_with_usage(client, dialogue):
    question, expected = dialogue
    chunks = list(ask(client, question, stream=True, stream_options={"include_usage": True}))
    *parts, last = chunks
    assert parts[0].choices[0].delta.role == "assistant"
    texts = [part.choices[0].delta.content or "" for part in parts]
    assert "".join(texts) == expected
    assert sum(map(bool, texts)) > 3, "it came in pieces"
    assert [part.choices[0].finish_reason for part in parts][-1] == "stop"
    assert {part.usage for part in parts} == {None}
    assert (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens) == ([], 42, 8)


def test_chat_logprobs(client, dialogue):
    question, expected = dialogue
    answer = ask(client, question, logprobs=True, top_logprobs=2)
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries).removesuffix("<|im_end|>") == expected
    for entry in entries:
        assert [entry.token, entry.logprob] == [entry.top_logprobs[0].token, entry.top_logprobs[0].logprob]
        assert entry.top_logprobs[1].logprob <= entry.logprob <= 0


def test_logprobs_of_the_chosen_tokens_alone(client, complete, dialogue):
    """What a client gets that asks for no rivals; of chats it is the default."""
    question, _ = dialogue
    entries = ask(client, question, logprobs=True).choices[0].logprobs.content
    beside = ask(client, question, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [entry.token for entry in entries] == [entry.token for entry in beside]
    assert [entry.logprob for entry in entries] == pytest.approx([it.logprob for it in beside], abs=1e-3)
    assert all(entry.top_logprobs == [] for entry in entries)
    lists = complete(TEXTS[0], max_tokens=4, logprobs=0).choices[0].logprobs
    assert lists.token_logprobs == pytest.approx(
        complete(TEXTS[0], max_tokens=4, logprobs=2).choices[0].logprobs.token_logprobs, abs=1e-3
    )
    assert len(lists.tokens) == 4


def test_string_list_and_token_ids_are_the_same_prompts(complete, tokenizer):
    ids = [tokenizer.encode(text) for text in TEXTS]
    alone = [complete(text, max_tokens=8).choices[0].text for text in TEXTS]
    assert len(set(alone)) == len(TEXTS)
    for prompts in (TEXTS, ids):
        answer = complete(prompts, max_tokens=8)
        assert [choice.text for choice in answer.choices] == alone
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert complete(ids[0], max_tokens=8).choices[0].text == alone[0]


def test_completions_stream(complete):
    whole = complete(TEXTS, max_tokens=8)
    texts = {0: "", 1: "", 2: ""}
    stream = complete(TEXTS, max_tokens=8, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
        usage = chunk.usage
    assert list(texts.values()) == [choice.text for choice in whole.choices]
    assert usage == whole.usage


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("text", [*TEXTS, LONG], ids=["france", "once", "water", "long"])
def test_echoed_logprobs_are_the_models(complete, tokenizer, truth, text, max_tokens):
    """The request of lm-eval's local-completions, read as it reads it."""
    context, continuation = tokenizer.encode(text), tokenizer.encode(" Paris, of course")
    prompt = context + continuation
    answer = complete([prompt], max_tokens=max_tokens, echo=True, logprobs=1, seed=1234)
    lists = answer.choices[0].logprobs
    assert len(lists.tokens) == len(prompt) + max_tokens
    assert lists.token_logprobs[0] is None

    expected = truth(prompt)
    own = [expected[at - 1, token].item() for at, token in enumerate(prompt) if at]
    scored = slice(len(context), len(prompt))
    assert math.isclose(sum(lists.token_logprobs[1 : len(prompt)]), sum(own), abs_tol=1e-2)
    assert math.isclose(sum(lists.token_logprobs[scored]), sum(own[len(context) - 1 :]), abs_tol=1e-2)

    best = expected.argmax(-1).tolist()
    greedy = [best[at - 1] == prompt[at] for at in range(len(context), len(prompt))]
    shown = zip(lists.tokens[scored], lists.top_logprobs[scored], strict=True)
    assert [token == max(top, key=top.get) for token, top in shown] == greedy
    if max_tokens:
        assert lists.tokens[-1] == tokenizer.decode([best[-1]])
        assert math.isclose(lists.token_logprobs[-1], expected[-1].max().item(), abs_tol=1e-3)


def test_logprobs_do_not_depend_on_the_prefix_cache(complete):
    """Blocks that are there already have no logits: a prompt to be scored must be computed again."""
    complete(LONG, max_tokens=1)
    first, second = (complete(LONG, max_tokens=0, echo=True, logprobs=1).choices[0] for _ in range(2))
    assert first.text == second.text == LONG
    assert first.logprobs.token_logprobs[1:] == pytest.approx(second.logprobs.token_logprobs[1:], abs=1e-3)
    assert len(first.logprobs.token_logprobs) > 64


def test_two_choices_differ(complete):
    answer = complete("My favourite animal is", n=2, seed=7, temperature=1, max_tokens=16)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].text != answer.choices[1].text
    assert answer.usage.prompt_tokens == 4


def test_a_seed_reproduces_whatever_runs_beside_it(complete):
    def say(seed, **options):
        return complete("My favourite animal is", seed=seed, temperature=1, max_tokens=16, **options)

    alone = say(11).choices[0].text
    assert say(11, n=3).choices[0].text == alone
    assert say(12).choices[0].text != alone


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(complete, stream):
    whole = complete("Count: 1, 2, 3, 4,", max_tokens=24).choices[0].text
    stop = whole[5:9]  # wherever tokens begin and end
    answer = complete("Count: 1, 2, 3, 4,", max_tokens=24, stop=["never said", stop], stream=stream)
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    assert "".join(choice.text for choice in choices) == whole[: whole.index(stop)]
    assert choices[-1].finish_reason == "stop"


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert MODEL in missing.value.message


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"suffix": "x"}, "suffix"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_requests_name_their_field(complete, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        complete("hi", **options)
    assert refused.value.param == param
    assert param in refused.value.message
    assert refused.value.type == "invalid_request_error"
