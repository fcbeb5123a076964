"""Facts from a hub."""

import pytest

from mii_operator.model_source import ModelRefused, ModelSource
from mii_spec.spec import Spec

SPEC = Spec(model="org/name")


async def test_facts_come_from_config_and_index_and_are_kept(hub):
    hub.add("org/name", heads=32, num_key_value_heads=8, parameter_bytes=14_000_000_000)
    source = ModelSource(hub.url)
    found = await source.find(SPEC, "")
    assert found.facts
    assert (found.facts.heads, found.facts.kv_heads, found.facts.parameter_bytes) == (32, 8, 14_000_000_000)
    asked = len(hub.asked)
    assert await source.find(SPEC, "") == found
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (401, "RepoNotFound", "ModelNotFound"),
        (404, "RevisionNotFound", "ModelNotFound"),
        (404, "", "ModelNotFound"),
        (401, "", "ModelAuthRequired"),
        (403, "GatedRepo", "ModelAuthRequired"),
    ],
)
async def test_refusals(hub, status, code, reason):
    hub.refusal = (status, code)
    with pytest.raises(ModelRefused) as caught:
        await ModelSource(hub.url).find(SPEC, "")
    assert caught.value.reason == reason
    assert "spec." in caught.value.message or "main" in caught.value.message


async def test_another_token_is_tried_at_once(hub):
    hub.refusal = (403, "GatedRepo")
    source = ModelSource(hub.url)
    with pytest.raises(ModelRefused):
        await source.find(SPEC, "old")
    hub.refusal = None
    hub.add("org/name", heads=8)
    assert (await source.find(SPEC, "new")).facts
    with pytest.raises(ModelRefused):
        await source.find(SPEC, "old")


async def test_a_hub_that_is_down_is_no_refusal(hub):
    hub.refusal = (503, "")
    for url in (hub.url, "http://127.0.0.1:9"):
        found = await ModelSource(url).find(SPEC, "")
        assert found.facts is None
        assert not found.reachable
        assert url in found.problem


async def test_a_model_that_is_not_described_has_no_facts(hub):
    hub.models["org/name"] = ({"num_attention_heads": "many"}, 1)
    found = await ModelSource(hub.url).find(SPEC, "")
    assert (found.facts, found.reachable) == (None, True)


@pytest.mark.parametrize("model", ["pvc://claim/m", "file:///m", "https://example.org/m.gguf"])
async def test_other_sources_are_not_asked_for(hub, model):
    assert (await ModelSource(hub.url).find(Spec(model=model), "")).facts is None
    assert hub.asked == []
