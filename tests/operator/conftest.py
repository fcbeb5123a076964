"""Manifests and facts for plans."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mii_operator.facts import Capabilities, Cluster, Facts, Images, capabilities
from mii_spec.model_facts import ModelFacts
from mii_spec.sizing import GIB, GpuFacts
from mii_spec.spec import MIIDeployment, parse

ROOT = Path(__file__).parents[2]
IMAGES = Images(server="registry.example/mii-server:1.0", gateway="registry.example/mii-operator:1.0")
NEWEST = capabilities(
    {
        "policy/v1/PodDisruptionBudget",
        "policy/v1beta1/PodDisruptionBudget",
        "monitoring.coreos.com/v1/ServiceMonitor",
    }
)
OLDEST = capabilities({"policy/v1beta1/PodDisruptionBudget"})

MISTRAL = ModelFacts(
    heads=32,
    kv_heads=8,
    layers=32,
    head_dim=128,
    hidden=4096,
    parameter_bytes=14_496_047_104,
    max_position=32768,
)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def newest() -> Capabilities:
    return NEWEST


@pytest.fixture(scope="session")
def oldest() -> Capabilities:
    """Of Kubernetes 1.20 without the Prometheus operator."""
    return OLDEST


@pytest.fixture(scope="session")
def deployment() -> Callable[..., MIIDeployment]:
    """deployment(**spec): as the API server has stored it."""

    def make(**spec: Any) -> MIIDeployment:
        return parse(
            {
                "apiVersion": "mii.dev/v1alpha1",
                "kind": "MIIDeployment",
                "metadata": {"name": "mistral", "namespace": "prod", "uid": "0f8f-uid"},
                "spec": {"model": "mistralai/Mistral-7B-Instruct-v0.3", **spec},
            }
        )

    return make


@pytest.fixture(scope="session")
def example() -> Callable[[str], MIIDeployment]:
    """example(name): examples/NAME.yaml as the API server has stored it."""

    def load(name: str) -> MIIDeployment:
        document = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
        document["metadata"] |= {"namespace": "prod", "uid": "0f8f-uid"}
        return parse(document)

    return load


@pytest.fixture(scope="session")
def facts() -> Callable[..., Facts]:
    """facts(gpus, capabilities, **cluster): Mistral 7B on nodes with that many 80 GB GPUs."""

    def make(gpus: int = 8, capabilities: Capabilities = NEWEST, **cluster: Any) -> Facts:
        return Facts(
            model=MISTRAL,
            gpu=GpuFacts(memory_bytes=80 * GIB, per_node=gpus) if gpus else None,
            cluster=Cluster(IMAGES, capabilities, **cluster),
        )

    return make
