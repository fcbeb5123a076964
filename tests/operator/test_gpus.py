"""GPU facts from nodes; capabilities from discovery."""

import pytest

from mii_operator.facts import capabilities
from mii_operator.gpus import MIB, gpu_facts
from mii_spec.sizing import GpuFacts
from mii_spec.spec import Accelerator


def node(gpus=None, product=None, memory=None):
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": memory}
    return {
        "metadata": {"labels": {k: v for k, v in labels.items() if v is not None}},
        "status": {"allocatable": {"cpu": "8"} | ({"nvidia.com/gpu": gpus} if gpus else {})},
    }


H100 = node("8", "NVIDIA-H100-80GB-HBM3", "81559")
T4 = node("4", "Tesla-T4", "15360")


@pytest.mark.parametrize(
    ("nodes", "accelerator", "expected"),
    [
        ([], Accelerator(), None),
        ([node()], Accelerator(), None),
        ([node("0")], Accelerator(), None),
        ([H100, node()], Accelerator(), GpuFacts(memory_bytes=81559 * MIB, per_node=8)),
        ([H100, T4], Accelerator(), GpuFacts(memory_bytes=15360 * MIB, per_node=8, mixed=True)),
        (
            [H100, T4],
            Accelerator(product="Tesla-T4"),
            GpuFacts(memory_bytes=15360 * MIB, per_node=4),
        ),
        ([H100], Accelerator(product="Tesla-T4"), None),
        ([H100], Accelerator(resource="amd.com/gpu"), None),
        ([node("2")], Accelerator(), GpuFacts(memory_bytes=None, per_node=2)),
        ([node("2", memory="lots")], Accelerator(), GpuFacts(memory_bytes=None, per_node=2)),
        ([{"metadata": {}}], Accelerator(), None),
    ],
)
def test_gpu_facts(nodes, accelerator, expected):
    assert gpu_facts(nodes, accelerator) == expected


@pytest.mark.parametrize(
    ("kinds", "budget", "monitor"),
    [
        (set(), None, None),
        ({"policy/v1beta1/PodDisruptionBudget"}, "policy/v1beta1", None),
        ({"policy/v1beta1/PodDisruptionBudget", "policy/v1/PodDisruptionBudget"}, "policy/v1", None),
        ({"monitoring.coreos.com/v1/PodMonitor"}, None, None),
        ({"monitoring.coreos.com/v1/ServiceMonitor"}, None, "monitoring.coreos.com/v1"),
    ],
)
def test_capabilities(kinds, budget, monitor):
    found = capabilities(kinds)
    assert (found.disruption_budget, found.service_monitor) == (budget, monitor)
