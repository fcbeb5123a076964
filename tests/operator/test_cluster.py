"""A real API server takes the definition, the examples and every child of their plans.

Needs KUBECONFIG and kubectl. Nothing has to run there: no pod is waited for.
"""

import json
import os
import shutil
import subprocess
import uuid
from typing import Any

import pytest
import yaml

from mii_operator.facts import Capabilities, capabilities
from mii_operator.plan import plan
from mii_spec.spec import parse

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not os.environ.get("KUBECONFIG"), reason="no API server: set KUBECONFIG to one that may be written to"
    ),
    pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed"),
]

Manifest = dict[str, Any]


def kubectl(*args: str, manifests: list[Manifest] | None = None, check: bool = True) -> str:
    text = None if manifests is None else yaml.safe_dump_all(manifests)
    done = subprocess.run(["kubectl", *args], input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr}")
    return done.stdout if check else done.stderr


def apply(*manifests: Manifest, check: bool = True) -> str:
    args = ("apply", "--server-side", "--force-conflicts", "--field-manager=test", "-f", "-")
    return kubectl(*args, manifests=list(manifests), check=check)


@pytest.fixture(scope="module")
def definition(root) -> Manifest:
    """The CRD, without CEL rules for an API server that does not know them (before 1.25)."""
    crd: Manifest = yaml.safe_load((root / "crds/miideployments.yaml").read_text())
    version = json.loads(kubectl("get", "--raw", "/version"))
    if (int(version["major"]), int(version["minor"].rstrip("+"))) < (1, 25):
        crd = without(crd, "x-kubernetes-validations")
    apply(crd)
    kubectl("wait", "--for=condition=Established", "crd/miideployments.mii.dev", "--timeout=30s")
    return crd


@pytest.fixture
def namespace(definition):
    name = f"mii-test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def offered() -> Capabilities:
    groups = ("policy/v1", "policy/v1beta1", "monitoring.coreos.com/v1")
    found = set()
    for group in groups:
        done = subprocess.run(
            ["kubectl", "get", "--raw", f"/apis/{group}"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            found |= {f"{group}/{resource['kind']}" for resource in json.loads(done.stdout)["resources"]}
    return capabilities(found)


def without(node: Any, key: str) -> Any:
    if isinstance(node, dict):
        return {k: without(v, key) for k, v in node.items() if k != key}
    return [without(item, key) for item in node] if isinstance(node, list) else node


def test_examples_and_their_children_apply_and_stay(root, namespace, offered, facts):
    for path in sorted((root / "examples").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        name = document["metadata"]["name"] = f"{path.stem}-x"[:50]
        document["metadata"]["namespace"] = namespace
        apply(document)
        stored = json.loads(kubectl("get", "mii", name, "-n", namespace, "-o", "json"))
        children = plan(parse(stored), facts(capabilities=offered)).children
        apply(*children)
        before = versions(children)
        apply(*children)
        assert versions(children) == before, f"{path.name}: applying twice changes an object"


def versions(children: tuple[Manifest, ...]) -> dict[str, str]:
    """Each child's generation, or its whole spec where there is none: status may move by itself."""
    found = json.loads(kubectl("get", "-f", "-", "-o", "json", manifests=list(children)))
    return {
        f"{item['kind']}/{item['metadata']['name']}": str(
            item["metadata"].get("generation") or item.get("spec")
        )
        for item in found["items"]
    }


def test_defaults_are_those_of_the_types(namespace):
    metadata = {"name": "five", "namespace": namespace}
    document = {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": metadata}
    document["spec"] = {"model": "org/name"}
    apply(document)
    stored = parse(json.loads(kubectl("get", "mii", "five", "-n", namespace, "-o", "json")))
    assert stored.spec == parse(document).spec
    kubectl("scale", "mii", "five", "-n", namespace, "--replicas=3")
    assert kubectl("get", "mii", "five", "-n", namespace, "-o", "jsonpath={.spec.replicas}") == "3"


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
def test_the_api_server_refuses_what_the_schema_says(namespace, spec, field):
    metadata = {"name": "bad", "namespace": namespace}
    document = {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": metadata, "spec": spec}
    assert field in apply(document, check=False)
