"""Health, info, metrics, the OpenAPI document and response headers."""

import asyncio

import aiohttp
import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

MODEL = "org/tiny"


async def test_info_is_the_engine_and_its_names(http):
    async with http.get("/v1/info") as response:
        info = await response.json()
    assert (info["model"], info["max_model_len"], info["kv_blocks"]) == (MODEL, 2048, 100)
    assert (info["served_model_name"], info["deployment_name"]) == (MODEL, "tiny-deployment")
    assert "type" not in info


async def test_served_name_replaces_the_models(start_server):
    server = await start_server(served_model_name="short")
    async with aiohttp.ClientSession(server.url) as http:
        async with http.get("/v1/models") as response:
            listed = (await response.json())["data"][0]
        async with http.post("/v1/completions", json={"model": "short", "prompt": "x"}) as response:
            assert response.status == 200
        async with http.post("/v1/completions", json={"model": MODEL, "prompt": "x"}) as response:
            assert response.status == 404
    assert (listed["id"], listed["root"]) == ("short", MODEL)


async def test_a_signed_url_keeps_its_signature_to_itself(start_server):
    server = await start_server(model="https://host/m.gguf?signature=s3cret")
    async with aiohttp.ClientSession(server.url) as http, http.get("/v1/models") as response:
        text = await response.text()
    assert "s3cret" not in text
    assert '"https://host/m.gguf"' in text


async def samples(http) -> dict[str, float]:
    """Metrics by name, of this model; a finish reason is appended to its name."""
    async with http.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    return {
        sample.name + sample.labels.get("finished_reason", "") + sample.labels.get("le", ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model_name") == MODEL
    }


async def test_metrics_have_their_well_known_names(http, client):
    await client.completions.create(model=MODEL, prompt="hello", max_tokens=4)
    await client.completions.create(model=MODEL, prompt="hello", max_tokens=4)
    found = await samples(http)
    assert found["mii:num_requests_running"] == 1
    assert found["mii:num_requests_waiting"] == 0
    assert found["mii:kv_cache_usage_perc"] == 0
    assert found["mii:prefix_cache_queries_total"] == 100  # a total, not a sum of totals
    assert found["mii:prefix_cache_hits_total"] == 40
    assert found["mii:num_preemptions_total"] == 2
    assert found["mii:prompt_tokens_total"] == 10
    assert found["mii:generation_tokens_total"] == 8
    assert found["mii:request_success_totallength"] == 2
    assert found["mii:request_success_totalstop"] == 0
    assert found["mii:time_to_first_token_seconds_count"] == 2
    assert found["mii:time_to_first_token_seconds_bucket0.04"] == 2
    assert found["mii:time_to_first_token_seconds_bucket0.02"] == 0
    assert found["mii:inter_token_latency_seconds_count"] == 6
    assert found["mii:e2e_request_latency_seconds_count"] == 2
    assert found["mii:iteration_tokens_total_count"] == 8
    assert found["mii:iteration_tokens_total_sum"] == 8 * 7


async def test_openmetrics_for_who_asks(http):
    async with http.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await response.text()).endswith("# EOF\n")


async def test_metrics_before_the_model(start_server):
    server = await start_server(loaded=asyncio.Event().wait())
    async with aiohttp.ClientSession(server.url) as http:
        assert (await samples(http))["mii:num_requests_running"] == 0


async def test_openapi_describes_every_route(http, server):
    async with http.get("/openapi.json") as response:
        document = await response.json()
    operations = {(method, path) for path, item in document["paths"].items() for method in item}
    assert operations == {
        ("post", "/v1/chat/completions"), ("post", "/v1/completions"), ("get", "/v1/models"),
        ("get", "/v1/models/{model}"), ("post", "/mii/{deployment}"), ("get", "/health/live"),
        ("get", "/health/ready"), ("get", "/healthz"), ("get", "/metrics"), ("get", "/v1/info"),
        ("get", "/openapi.json"),
    }  # fmt: skip
    names = set(document["components"]["schemas"])
    assert {ref.rsplit("/", 1)[1] for ref in _references(document)} <= names


@pytest.mark.parametrize(
    ("path", "template", "body", "good"),
    [
        ("/v1/completions", "/v1/completions", {"prompt": [1, 2], "max_tokens": 2, "logprobs": 1}, True),
        ("/v1/completions", "/v1/completions", {"prompt": "x", "surprise": 1}, False),
        ("/v1/completions", "/v1/completions", {"prompt": "x", "suffix": "y"}, False),
        ("/v1/chat/completions", "/v1/chat/completions",
         {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "logprobs": True, "stop": "q"},
         True),
        ("/v1/chat/completions", "/v1/chat/completions", {"messages": [{"role": "user"}], "top_p": 0}, False),
        ("/mii/tiny-deployment", "/mii/{deployment}", {"prompts": "x", "stop": "y", "top_k": 3}, True),
        ("/mii/tiny-deployment", "/mii/{deployment}", {"prompts": 5}, False),
    ],
)  # fmt: skip
async def test_openapi_agrees_with_the_server(http, path, template, body, good):
    async with http.get("/openapi.json") as response:
        document = await response.json()
    operation = document["paths"][template]["post"]
    request = operation["requestBody"]["content"]["application/json"]["schema"]
    assert _valid(request, document, body) is good
    async with http.post(path, json=body) as response:
        assert (response.status == 200) is good
        answer = await response.json()
    described = operation["responses"]["200" if good else "default"]["content"]["application/json"]["schema"]
    assert _valid(described, document, answer)


async def test_request_ids(http):
    async with http.get("/healthz", headers={"X-Request-Id": "mine-1"}) as response:
        assert response.headers["X-Request-Id"] == "mine-1"
    async with http.get("/healthz", headers={"X-Request-Id": "bad id"}) as response:
        assert len(response.headers["X-Request-Id"]) == 32
    async with http.post("/v1/completions", json={"prompt": "x", "stream": True}) as response:
        assert response.headers["X-Request-Id"]


def _valid(schema, document, value) -> bool:
    whole = schema | {"components": document["components"]}
    return jsonschema.Draft202012Validator(whole).is_valid(value)


def _references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    for item in value if isinstance(value, list) else []:
        yield from _references(item)
