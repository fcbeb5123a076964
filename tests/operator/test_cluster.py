"""A real API server takes the definition, the examples and every child of their plans.

Needs KUBECONFIG and kubectl. Nothing has to run there: no pod is waited for.
"""

import json
import subprocess
from typing import Any

import pytest
import yaml

from mii_operator.facts import Capabilities, capabilities
from mii_operator.plan import plan
from mii_spec.spec import parse

pytestmark = pytest.mark.cluster

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def offered(cluster) -> Capabilities:
    groups = ("policy/v1", "policy/v1beta1", "monitoring.coreos.com/v1", "autoscaling/v2")
    found = set()
    for group in groups:
        done = subprocess.run(
            ["kubectl", "get", "--raw", f"/apis/{group}"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            found |= {f"{group}/{resource['kind']}" for resource in json.loads(done.stdout)["resources"]}
    return capabilities(found)


def test_examples_and_their_children_apply_and_stay(root, cluster, namespace, offered, facts):
    for path in sorted((root / "examples").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        name = document["metadata"]["name"] = f"{path.stem}-x"[:50]
        document["metadata"]["namespace"] = namespace
        if document["spec"].get("autoscaling", {}).get("by") == "hpa" and not offered.autoscaler:
            continue  # refused, as test_operator_cluster.py sees
        cluster.apply(document)
        stored = json.loads(cluster.kubectl("get", "mii", name, "-n", namespace, "-o", "json"))
        children = plan(parse(stored), facts(capabilities=offered)).children
        cluster.apply(*children)
        before = versions(cluster, children)
        cluster.apply(*children)
        assert versions(cluster, children) == before, f"{path.name}: applying twice changes an object"


def versions(cluster, children: tuple[Manifest, ...]) -> dict[str, str]:
    """Each child's generation, or its whole spec where there is none: status may move by itself."""
    found = json.loads(cluster.kubectl("get", "-f", "-", "-o", "json", manifests=list(children)))
    return {
        f"{item['kind']}/{item['metadata']['name']}": str(
            item["metadata"].get("generation") or item.get("spec")
        )
        for item in found["items"]
    }


def test_defaults_are_those_of_the_types(cluster, namespace):
    metadata = {"name": "five", "namespace": namespace}
    document = {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": metadata}
    document["spec"] = {"model": "org/name"}
    cluster.apply(document)
    stored = parse(json.loads(cluster.kubectl("get", "mii", "five", "-n", namespace, "-o", "json")))
    assert stored.spec == parse(document).spec
    cluster.kubectl("scale", "mii", "five", "-n", namespace, "--replicas=3")
    assert cluster.kubectl("get", "mii", "five", "-n", namespace, "-o", "jsonpath={.spec.replicas}") == "3"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "model"),
        ({"model": "s3://x"}, "spec.model"),
        ({"model": "a/b", "gpus": "all"}, "spec.gpus"),
        ({"model": "a/b", "gpus": 65}, "spec.gpus"),
        ({"model": "a/b", "engine": {"kvMemoryFraction": 0}}, "spec.engine.kvMemoryFraction"),
        ({"model": "a/b", "gateway": {"queue": {"timeout": "60"}}}, "spec.gateway.queue.timeout"),
        ({"model": "a/b", "tokenSecretRef": {"name": "x"}}, "spec.tokenSecretRef.key"),
        ({"model": "a/b", "autoscaling": {"min": 1}}, "spec.autoscaling.max"),
        ({"model": "a/b", "unknown": 1}, "unknown"),
    ],
    ids=str,
)
def test_the_api_server_refuses_what_the_schema_says(cluster, namespace, spec, field):
    metadata = {"name": "bad", "namespace": namespace}
    document = {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": metadata, "spec": spec}
    assert field in cluster.apply(document, check=False)
