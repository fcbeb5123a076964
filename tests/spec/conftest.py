"""Manifests, and the custom resource definition as JSON schema."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]


@pytest.fixture(scope="session")
def manifest() -> Callable[..., Manifest]:
    """manifest(**spec) is a valid one with these fields of spec on top."""

    def make(**spec: Any) -> Manifest:
        return {
            "apiVersion": "mii.dev/v1alpha1",
            "kind": "MIIDeployment",
            "metadata": {"name": "mistral"},
            "spec": {"model": "mistralai/Mistral-7B-Instruct-v0.3", **spec},
        }

    return make


@pytest.fixture(scope="session")
def examples() -> dict[str, Manifest]:
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("examples/*.yaml"))}


@pytest.fixture(scope="session")
def crd() -> Manifest:
    document: Manifest = yaml.safe_load((ROOT / "crds/miideployments.yaml").read_text())
    return document


@pytest.fixture(scope="session")
def crd_schema(crd: Manifest) -> Manifest:
    """The OpenAPI schema of the resource, as the API server reads it."""
    schema: Manifest = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


@pytest.fixture(scope="session")
def json_schema(crd_schema: Manifest) -> Manifest:
    """The same as JSON schema, with what the API server would drop as unknown refused."""
    return to_json_schema(crd_schema)


def to_json_schema(node: Manifest) -> Manifest:
    result = {k: v for k, v in node.items() if not k.startswith("x-kubernetes") and k != "nullable"}
    if result.pop("exclusiveMinimum", False):
        result["exclusiveMinimum"] = result.pop("minimum")
    if "properties" in result:
        result["properties"] = {k: to_json_schema(v) for k, v in result["properties"].items()}
        open_object = node.get("x-kubernetes-preserve-unknown-fields") or set(node["properties"]) == set()
        result.setdefault("additionalProperties", bool(open_object))
    if "items" in result:
        result["items"] = to_json_schema(result["items"])
    return {"anyOf": [result, {"type": "null"}]} if node.get("nullable") else result
