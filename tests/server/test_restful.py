"""POST /mii/{deployment}."""

import aiohttp
import pytest

PATH = "/mii/tiny-deployment"


async def generate(http, **body):
    async with http.post(PATH, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_one_prompt(http, engine):
    engine.answer = " world"
    assert await generate(http, prompts="hello") == [
        {"generated_text": " world", "prompt_length": 5, "generated_length": 7, "finish_reason": "stop"}
    ]


async def test_prompts_keep_their_order(http):
    replies = await generate(
        http, prompts=["x", "yy", "zzz"], max_new_tokens=2, return_full_text=True, seed=0
    )
    assert [reply["generated_text"] for reply in replies] == ["xab", "yybc", "zzzcd"]
    assert [reply["prompt_length"] for reply in replies] == [1, 2, 3]
    assert {reply["finish_reason"] for reply in replies} == {"length"}


async def test_defaults_are_miis(http, engine):
    await generate(http, prompts="hello")
    sampling = engine.params[0].sampling
    assert (sampling.top_p, sampling.temperature, sampling.top_k) == (0.9, 1.0, 0)
    assert sampling.max_tokens == 1024 - len("hello")
    assert sampling.min_tokens == 0
    assert not sampling.ignore_eos


async def test_options_reach_the_engine(http, engine):
    await generate(
        http, prompts="x", max_new_tokens=9, min_new_tokens=3, ignore_eos=True, top_p=0.5, top_k=5,
        temperature=0.5, stop=["!", "?"], seed=3,
    )  # fmt: skip
    params, sampling = engine.params[0], engine.params[0].sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos) == (9, 3, True)
    assert (sampling.top_p, sampling.top_k, sampling.temperature, sampling.seed) == (0.5, 5, 0.5, 3)
    assert params.stop == ("!", "?")


async def test_greedy_without_sampling(http, engine):
    await generate(http, prompts="x", do_sample=False, temperature=0.7, max_new_tokens=1)
    assert engine.params[0].sampling.temperature == 0


@pytest.mark.parametrize("full", [False, True])
async def test_stream_is_of_lists_by_prompt(http, sse, full):
    body = {"prompts": ["x", "y"], "max_new_tokens": 3, "stream": True, "return_full_text": full, "seed": 0}
    async with http.post(PATH, json=body) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lists = [event async for event in sse(response)]
    assert {len(replies) for replies in lists} == {2}
    texts = ["".join(replies[i]["generated_text"] for replies in lists) for i in range(2)]
    assert texts == (["xabc", "ybcd"] if full else ["abc", "bcd"])
    assert [reply["finish_reason"] for reply in lists[-1]] == ["length", "length"]
    assert [reply["generated_length"] for reply in lists[-1]] == [3, 3]
    assert lists[0][0]["finish_reason"] == "none"


async def test_default_deployment_name_holds_a_slash(start_server):
    server = await start_server(deployment_name=None)
    async with aiohttp.ClientSession(server.url) as http:
        for path in ("/mii/org/tiny-mii-deployment", "/mii/org%2Ftiny-mii-deployment"):
            async with http.post(path, json={"prompts": "x", "max_new_tokens": 1}) as response:
                assert response.status == 200


async def test_healthz(http):
    async with http.get("/healthz") as response:
        assert (response.status, await response.text()) == (200, "ok")
