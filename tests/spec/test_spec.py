"""A good manifest: five lines suffice, every field arrives typed, what the API server stores parses too."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from mii_spec.source import FileModel, HubModel, UrlModel, VolumeModel
from mii_spec.spec import MIIDeployment, parse


def test_five_lines_give_every_default(examples):
    deployment = parse(examples["mistral-mii.yaml"])
    assert deployment.model_dump(by_alias=True, mode="json")["spec"] == {
        "model": "mistralai/Mistral-7B-Instruct-v0.3",
        "revision": "main",
        "servedName": "",
        "replicas": 1,
        "gpus": "auto",
        "tensorParallel": "auto",
        "accelerator": {"resource": "nvidia.com/gpu", "product": ""},
        "engine": {
            "dtype": "auto",
            "maxModelLen": "auto",
            "kvMemoryFraction": 0.9,
            "quantization": "none",
            "tokenBudget": "auto",
            "args": [],
        },
        "tokenSecretRef": None,
        "cache": {"size": None, "storageClassName": None, "claimName": None},
        "gateway": {
            "replicas": 1,
            "routing": "auto",
            "queue": {"maxRequests": 512, "timeout": "1m"},
            "apiKeysSecretRef": None,
            "tlsSecretRef": None,
        },
        "autoscaling": None,
        "rollout": {"strategy": "auto", "drainTimeout": "2m", "startupTimeout": "30m"},
        "podTemplate": {"metadata": {}, "spec": {}},
    }


def test_what_is_written_arrives(manifest):
    spec = parse(
        manifest(
            gpus=4,
            tensorParallel=4,
            engine={"maxModelLen": 4096, "kvMemoryFraction": 1, "args": ["--max-running=8", "--no-overlap"]},
            autoscaling={"min": 0, "max": 3, "idleAfter": "1h30m"},
            gateway={"queue": {"timeout": "1500ms"}},
        )
    ).spec
    assert (spec.gpus, spec.tensor_parallel, spec.engine.max_model_len) == (4, 4, 4096)
    assert spec.engine.args == ("--max-running=8", "--no-overlap")
    assert spec.autoscaling is not None
    assert spec.autoscaling.idle_after == timedelta(minutes=90)
    assert spec.gateway.queue.timeout == timedelta(seconds=1.5)


def test_the_stored_object_parses(manifest):
    stored = manifest()
    stored["metadata"] |= {"namespace": "prod", "uid": "1-2-3", "generation": 7, "managedFields": []}
    stored["status"] = {"summary": "0/1"}
    metadata = parse(stored).metadata
    assert (metadata.name, metadata.namespace, metadata.uid, metadata.generation) == (
        "mistral",
        "prod",
        "1-2-3",
        7,
    )


def test_every_example_parses(examples):
    assert [parse(document).metadata.name for document in examples.values()]


def test_a_dump_parses_to_the_same(examples):
    for document in examples.values():
        deployment = parse(document)
        assert parse(deployment.model_dump(by_alias=True, mode="json")) == deployment


def test_a_parsed_manifest_does_not_change(manifest):
    deployment = parse(manifest())
    with pytest.raises(ValidationError, match="frozen"):
        deployment.spec.replicas = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("gpt2", HubModel("gpt2")),
        ("Qwen/Qwen2.5-0.5B_x", HubModel("Qwen/Qwen2.5-0.5B_x")),
        ("pvc://models/llama/8b/", VolumeModel("models", "llama/8b")),
        ("pvc://models", VolumeModel("models", "")),
        ("file:///models/smol.gguf", FileModel("/models/smol.gguf")),
        ("https://host/a/m.gguf?download=true", UrlModel("https://host/a/m.gguf?download=true")),
    ],
)
def test_sources(manifest, text, source):
    assert parse(manifest(model=text)).spec.source == source


def test_the_served_name_is_the_model_unless_given(manifest):
    assert parse(manifest()).spec.served_model_name == "mistralai/Mistral-7B-Instruct-v0.3"
    assert parse(manifest(servedName="m")).spec.served_model_name == "m"


def test_types_are_not_shared_between_manifests(manifest):
    first: MIIDeployment = parse(manifest())
    first.spec.pod_template.spec["nodeSelector"] = {}
    assert parse(manifest()).spec.pod_template.spec == {}
