"""Bad manifests are refused, each at the field that is wrong and with words that help."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mii_spec.spec import SpecError, parse


def pod(**container):
    """spec.podTemplate with these fields of the server's container."""
    return {"podTemplate": {"spec": {"containers": [{"name": "server", **container}]}}}


POD = "spec.podTemplate.spec"

# Fields of spec, the path of the only complaint, words of it.
BAD_SPECS = [
    ({"model": ""}, "spec.model", "Hugging Face id"),
    ({"model": 7}, "spec.model", "must be a text"),
    ({"model": None}, "spec.model", "must be a text"),
    ({"model": "a/b/c"}, "spec.model", "Hugging Face id"),
    ({"model": "/models/x"}, "spec.model", "file:///models/x"),
    ({"model": "s3://bucket/x"}, "spec.model", "unknown scheme 's3'"),
    ({"model": "http://host/x.gguf"}, "spec.model", "unknown scheme 'http'"),
    ({"model": "https://huggingface.co/org/name"}, "spec.model", "by its id: org/name"),
    ({"model": "https://host/folder"}, "spec.model", ".gguf"),
    ({"model": "https://user:pw@host/x.gguf"}, "spec.model", "password"),
    ({"model": "pvc://My_Claim/x"}, "spec.model", "DNS-1123"),
    ({"model": "pvc://claim/../x"}, "spec.model", "'..'"),
    ({"model": "file://relative/x"}, "spec.model", "absolute"),
    ({"revision": ""}, "spec.revision", "empty"),
    ({"revision": 1.0}, "spec.revision", "must be a text"),
    ({"model": "pvc://claim/x", "revision": "v2"}, "spec.revision", "only a Hugging Face model"),
    ({"servedName": "x" * 256}, "spec.servedName", "255"),
    ({"replicas": -1}, "spec.replicas", "at least 0"),
    ({"replicas": 1001}, "spec.replicas", "at most 1000"),
    ({"replicas": "2"}, "spec.replicas", "an integer"),
    ({"replicas": True}, "spec.replicas", "an integer"),
    ({"replica": 2}, "spec.replica", "did you mean replicas"),
    ({"gpus": "all"}, "spec.gpus", "auto or an integer from 0 to 64"),
    ({"gpus": 1.5}, "spec.gpus", "auto or an integer"),
    ({"gpus": -1}, "spec.gpus", "auto or an integer"),
    ({"tensorParallel": 0}, "spec.tensorParallel", "from 1 to 64"),
    ({"tensorParallel": True}, "spec.tensorParallel", "auto or an integer"),
    ({"gpus": 4, "tensorParallel": 3}, "spec.tensorParallel", "auto or 4"),
    ({"gpus": 4, "tensorParallel": 2}, "spec.tensorParallel", "raise replicas"),
    ({"accelerator": {"resource": "gpu"}}, "spec.accelerator.resource", "nvidia.com/gpu"),
    ({"accelerator": {"product": "H100 80GB"}}, "spec.accelerator.product", "label value"),
    ({"accelerator": []}, "spec.accelerator", "an object"),
    ({"engine": {"dtype": "int8"}}, "spec.engine.dtype", "'bfloat16'"),
    ({"engine": {"quantization": "fp4"}}, "spec.engine.quantization", "'none' or 'fp8'"),
    ({"engine": {"maxModelLen": 0}}, "spec.engine.maxModelLen", "auto or an integer"),
    ({"engine": {"maxModelLen": 1}}, "spec.engine.maxModelLen", "from 2 to"),
    ({"engine": {"tokenBudget": "big"}}, "spec.engine.tokenBudget", "auto or an integer"),
    ({"engine": {"kvMemoryFraction": 0}}, "spec.engine.kvMemoryFraction", "more than 0"),
    ({"engine": {"kvMemoryFraction": 1.1}}, "spec.engine.kvMemoryFraction", "at most 1"),
    ({"engine": {"kvMemoryFraction": float("nan")}}, "spec.engine.kvMemoryFraction", "got nan"),
    ({"engine": {"kvMemoryFraction": "0.9"}}, "spec.engine.kvMemoryFraction", "a number"),
    ({"engine": {"args": "--overlap"}}, "spec.engine.args", "a list"),
    ({"engine": {"args": [1]}}, "spec.engine.args[0]", "a text"),
    ({"engine": {"args": ["--frobnicate"]}}, "spec.engine.args", "--frobnicate; may be: --tokenizer"),
    ({"engine": {"args": ["model2"]}}, "spec.engine.args", "model2"),
    ({"engine": {"args": ["--help"]}}, "spec.engine.args", "--help"),
    ({"engine": {"args": ["--max-running=many"]}}, "spec.engine.args", "many"),
    ({"engine": {"args": ["--max-running"]}}, "spec.engine.args", "expected one argument"),
    ({"engine": {"args": ["--log-level=loud"]}}, "spec.engine.args", "'loud'"),
    ({"engine": {"args": ["--overlap", "--dtype=float16"]}}, "spec.engine.args[1]", "spec.engine.dtype"),
    ({"engine": {"args": ["--port", "80"]}}, "spec.engine.args[0]", "the operator"),
    ({"tokenSecretRef": {"name": "hf"}}, "spec.tokenSecretRef.key", "required"),
    ({"tokenSecretRef": {"name": "HF", "key": "t"}}, "spec.tokenSecretRef.name", "DNS-1123"),
    ({"tokenSecretRef": {"name": "hf", "key": "a/b"}}, "spec.tokenSecretRef.key", "Secret's key"),
    ({"tokenSecretRef": "hf"}, "spec.tokenSecretRef", "an object"),
    ({"cache": {"size": "10 GB"}}, "spec.cache.size", "100Gi"),
    ({"cache": {"size": "0Gi"}}, "spec.cache.size", "more than 0"),
    ({"cache": {"size": 100}}, "spec.cache.size", "a text"),
    ({"cache": {"size": "1Gi", "claimName": "c"}}, "spec.cache.size", "claimName"),
    ({"cache": {"storageClassName": "fast"}}, "spec.cache.storageClassName", "size"),
    ({"cache": {"claimName": "-c"}}, "spec.cache.claimName", "DNS-1123"),
    ({"gateway": {"replicas": 0}}, "spec.gateway.replicas", "at least 1"),
    ({"gateway": {"routing": "random"}}, "spec.gateway.routing", "'auto'"),
    ({"gateway": {"queue": {"timeout": "60"}}}, "spec.gateway.queue.timeout", "90s"),
    ({"gateway": {"queue": {"timeout": 60}}}, "spec.gateway.queue.timeout", "duration"),
    ({"gateway": {"queue": {"timeout": "2h"}}}, "spec.gateway.queue.timeout", "from 100ms to 1h"),
    ({"gateway": {"queue": {"maxRequest": 1}}}, "spec.gateway.queue.maxRequest", "mean maxRequests"),
    ({"gateway": {"queue": {"maxRequests": -1}}}, "spec.gateway.queue.maxRequests", "at least 0"),
    ({"gateway": {"apiKeysSecretRef": {}}}, "spec.gateway.apiKeysSecretRef.name", "required"),
    ({"gateway": {"tlsSecretRef": {"name": "A"}}}, "spec.gateway.tlsSecretRef.name", "DNS-1123"),
    ({"autoscaling": {"min": 1}}, "spec.autoscaling.max", "required"),
    ({"autoscaling": {"min": 3, "max": 2}}, "spec.autoscaling.min", "at most max (2)"),
    ({"autoscaling": {"min": 0, "max": 2}}, "spec.autoscaling.idleAfter", "required with min: 0"),
    ({"autoscaling": {"min": 1, "max": 2, "idleAfter": "5m"}}, "spec.autoscaling.idleAfter", "min: 0"),
    ({"autoscaling": {"min": 0, "max": 2, "idleAfter": "1s"}}, "spec.autoscaling.idleAfter", "from 1m"),
    ({"autoscaling": {"min": 1, "max": 0}}, "spec.autoscaling.max", "at least 1"),
    ({"autoscaling": {"by": "keda", "min": 1, "max": 2}}, "spec.autoscaling.by", "'hpa'"),
    ({"autoscaling": {"by": "hpa", "min": 0, "max": 2}}, "spec.autoscaling.min", "at least 1 with by: hpa"),
    (
        {"autoscaling": {"by": "hpa", "min": 0, "max": 2, "idleAfter": "5m"}},
        "spec.autoscaling.min",
        "cannot scale to zero",
    ),
    (
        {"autoscaling": {"min": 1, "max": 2, "targetUtilization": 0}},
        "spec.autoscaling.targetUtilization",
        "more than 0",
    ),
    ({"rollout": {"strategy": "recreate"}}, "spec.rollout.strategy", "'surge'"),
    ({"rollout": {"drainTimeout": "-1s"}}, "spec.rollout.drainTimeout", "duration"),
    ({"rollout": {"startupTimeout": "1s"}}, "spec.rollout.startupTimeout", "from 10s"),
    ({"podTemplate": []}, "spec.podTemplate", "an object"),
    ({"podTemplate": {"nodeSelector": {}}}, "spec.podTemplate.nodeSelector", "there are: metadata, spec"),
    ({"podTemplate": {"spec": []}}, "spec.podTemplate.spec", "an object"),
    ({"podTemplate": {"metadata": {"name": "x"}}}, "spec.podTemplate.metadata.name", "labels"),
    (
        {"podTemplate": {"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}},
        "spec.podTemplate.metadata.labels.app.kubernetes.io/name",
        "the operator's",
    ),
    (
        {"podTemplate": {"metadata": {"annotations": {"a": 1}}}},
        "spec.podTemplate.metadata.annotations.a",
        "a text",
    ),
    ({"podTemplate": {"metadata": {"labels": []}}}, "spec.podTemplate.metadata.labels", "an object"),
    ({"podTemplate": {"spec": {"restartPolicy": "Never"}}}, f"{POD}.restartPolicy", "the operator's"),
    ({"podTemplate": {"spec": {"containers": {}}}}, f"{POD}.containers", "a list"),
    ({"podTemplate": {"spec": {"containers": [{}]}}}, f"{POD}.containers[0].name", "merged by name"),
    ({"podTemplate": {"spec": {"tolerations": ["x"]}}}, f"{POD}.tolerations[0]", "an object"),
    ({"podTemplate": {"spec": {"volumes": [{"name": "cache"}]}}}, f"{POD}.volumes[0].name", "spec.cache"),
    ({"podTemplate": {"spec": {"affinity": {"$patch": "x"}}}}, f"{POD}.affinity.$patch", "directives"),
    (pod(command=["sh"]), f"{POD}.containers[0].command", "the operator's"),
    (pod(args=["--x"]), f"{POD}.containers[0].args", "spec.engine.args"),
    (pod(livenessProbe={}), f"{POD}.containers[0].livenessProbe", "the operator's"),
    (pod(env={}), f"{POD}.containers[0].env", "a list"),
    (pod(env=[{"name": "HF_TOKEN", "value": "x"}]), f"{POD}.containers[0].env[0].name", "tokenSecretRef"),
    (pod(resources="big"), f"{POD}.containers[0].resources", "an object"),
    (
        pod(resources={"limits": {"nvidia.com/gpu": 2}}),
        f"{POD}.containers[0].resources.limits.nvidia.com/gpu",
        "spec.gpus",
    ),
]

# Whole documents.
BAD_DOCUMENTS = [
    ([], "manifest", "an object"),
    ({"spec": None}, "spec", "an object"),
    ({"spec": {}}, "spec.model", "required"),
    ({"apiVersion": "mii.dev/v1"}, "apiVersion", "'mii.dev/v1alpha1'"),
    ({"kind": "Deployment"}, "kind", "'MIIDeployment'"),
    ({"metadata": {}}, "metadata.name", "required"),
    ({"metadata": {"name": "Mistral"}}, "metadata.name", "lower case"),
    ({"metadata": {"name": "7b"}}, "metadata.name", "starting with a letter"),
    ({"metadata": {"name": "a.b"}}, "metadata.name", "'-'"),
    ({"metadata": {"name": "a" * 51}}, "metadata.name", "50"),
    ({"metadata": {"name": "a\n"}}, "metadata.name", "lower case"),
    ({"specs": {}}, "specs", "did you mean spec?"),
]


def complaints(document):
    with pytest.raises(SpecError) as caught:
        parse(document)
    return {error.path: error.message for error in caught.value.errors}


@pytest.mark.parametrize(("spec", "path", "words"), BAD_SPECS, ids=str)
def test_bad_spec(manifest, spec, path, words):
    found = complaints(manifest(**spec))
    assert list(found) == [path]
    assert words in found[path]


@pytest.mark.parametrize(("change", "path", "words"), BAD_DOCUMENTS, ids=str)
def test_bad_document(manifest, change, path, words):
    document = {**manifest(), **change} if isinstance(change, dict) else change
    found = complaints(document)
    assert list(found) == [path]
    assert words in found[path]


def test_all_wrong_fields_are_named_at_once(manifest):
    found = complaints(manifest(gpus="x", replicas=-1, engine={"dtype": "x"}))
    assert set(found) == {"spec.gpus", "spec.replicas", "spec.engine.dtype"}


def test_the_error_reads_as_one_line(manifest):
    with pytest.raises(SpecError, match=r"^spec\.gateway\.queue\.timeout: must be a duration such as 90s"):
        parse(manifest(gateway={"queue": {"timeout": "soon"}}))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "containers", "env", "resources", "limits", "volumes", "labels", "$x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
FIELDS = ["gpus", "engine", "cache", "gateway", "autoscaling", "rollout", "tokenSecretRef", "model"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), anything), anything, anything)
def test_nothing_but_a_spec_error_comes_out(manifest, spec, pod_metadata, pod_spec):
    document = manifest(**spec, podTemplate={"metadata": pod_metadata, "spec": pod_spec})
    errors = ()
    try:
        parse(document)
    except SpecError as error:
        errors = error.errors
    assert all(error.path.startswith("spec.") and error.message for error in errors)
