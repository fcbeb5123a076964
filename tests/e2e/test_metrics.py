"""What operators see of known requests to the real server."""

import json

import pytest

pytestmark = pytest.mark.slow

MODEL = "smollm2"
LONG = "The quick brown fox jumps over the lazy dog. " * 20


@pytest.fixture
def grown(server):
    """How much each metric has grown since the test began."""
    before = server.metrics()
    return lambda: {name: value - before[name] for name, value in server.metrics().items()}


def test_tokens_and_requests_are_counted(server, client, grown, wait_for):
    def complete(**options):
        options = {"model": MODEL, "prompt": ["Once upon a time", "Hello"], "temperature": 0} | options
        return client.completions.create(**options)

    usages = [
        complete(max_tokens=5, extra_body={"ignore_eos": True}).usage,
        *(
            chunk.usage
            for chunk in complete(max_tokens=9, stream=True, stream_options={"include_usage": True})
        ),
    ]
    stopped = complete(prompt="1, 2, 3, 4,", max_tokens=30, stop=" 7")
    assert stopped.choices[0].finish_reason == "stop"
    usages = [usage for usage in [*usages, stopped.usage] if usage]
    assert len(usages) == 3
    wait_for(lambda: server.running() == 0, "the engine is idle")
    now = grown()
    assert now["mii:prompt_tokens_total"] == sum(usage.prompt_tokens for usage in usages)
    assert now["mii:generation_tokens_total"] == sum(usage.completion_tokens for usage in usages)
    assert now["mii:request_success_total{stop}"] == 1
    assert now["mii:request_success_total{length}"] == 4
    assert now["mii:request_success_total{error}"] == now["mii:request_success_total{abort}"] == 0
    assert now["mii:time_to_first_token_seconds_count"] == 5
    assert now["mii:e2e_request_latency_seconds_count"] == 5
    between = now["mii:generation_tokens_total"] - 5
    assert now["mii:inter_token_latency_seconds_count"] == between
    assert 0 < now["mii:time_to_first_token_seconds_sum"] < now["mii:e2e_request_latency_seconds_sum"]
    # A request's last token is not computed with, unless a stop string shows only after the next step began.
    computed = now["mii:iteration_tokens_total_sum"] - now["mii:prompt_tokens_total"]
    assert between <= computed <= between + 2
    assert server.metrics()["mii:kv_cache_usage_perc"] == 0


def test_a_repeated_long_prompt_hits_the_prefix_cache(server, client, grown):
    def ask(salt):
        answer = client.completions.create(
            model=MODEL, prompt=LONG, max_tokens=4, temperature=0, extra_body={"cache_salt": salt}
        )
        usage = answer.usage
        return answer.choices[0].text, usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens

    text, tokens, cached = ask("first")
    assert (tokens > 192, cached) == (True, 0)
    assert grown()["mii:prefix_cache_hits_total"] == 0
    whole_blocks = (tokens - 1) // 64 * 64  # the last token must be computed: it is what is sampled from
    assert ask("first") == (text, tokens, whole_blocks)
    assert ask("second") == (text, tokens, 0)
    now = grown()
    assert now["mii:prefix_cache_hits_total"] == whole_blocks
    assert now["mii:prefix_cache_queries_total"] == 3 * tokens


@pytest.fixture
def http_json(server, get):
    def fetch(path):
        status, text = get(server.url + path)
        assert status == 200
        return json.loads(text)

    return fetch


def test_info_is_plausible(server, client, smollm2, http_json):
    info = http_json("/v1/info")
    assert info["model"] == str(smollm2)
    assert (info["served_model_name"], info["deployment_name"]) == ("smollm2", "smollm2")
    assert (info["device"], info["dtype"], info["tensor_parallel"]) == ("cpu", "float32", 1)
    assert (info["vocab_size"], info["max_model_len"]) == (49152, 1024)
    assert (info["block_size"], info["kv_blocks"]) == (64, 64)
    assert 0 < info["load_seconds"] < 200
    assert 10 < info["prefill_tokens_per_second"] < 1e6
    model = client.models.retrieve("smollm2").model_dump()
    assert (model["root"], model["max_model_len"]) == (info["model"], info["max_model_len"])


def test_openapi_describes_what_is_served(http_json):
    document = http_json("/openapi.json")
    served = {"/v1/chat/completions", "/v1/completions", "/mii/{deployment}", "/metrics"}
    assert served <= document["paths"].keys()
