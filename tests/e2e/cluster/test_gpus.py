"""GPUs asked for become devices and a tensor-parallel width, or the words why not.

The server's image here has no CUDA, so its process ends soon: what counts is what its pod was given.
"""

import json
import re

import pytest

from .kube import kinds, kubectl, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

RESOURCE = "nvidia.com/gpu"
MODEL = "file:///models/smollm2.gguf"


@pytest.fixture(scope="module")
def gpus(release):
    """Of the node that has most. Skips where none has two."""
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    most = max(int(node["status"]["allocatable"].get(RESOURCE, 0)) for node in nodes)
    if most < 2:
        pytest.skip(f"no node has two {RESOURCE}")
    return most


def test_two_gpus_are_two_devices_and_a_width_of_two(gpus, make_deployment):
    deployment = make_deployment(model=MODEL, gpus=2)
    deployment.condition("Accepted", "Planned")
    [pod] = wait_for(lambda: deployment.pods("server"), "a server")
    [server] = pod["spec"]["containers"]
    assert "--tensor-parallel=2" in server["args"]
    assert server["resources"]["limits"] == {RESOURCE: "2"}
    assert deployment.get("mii", deployment.name)["status"]["engine"]["tensorParallel"] == 2
    devices = wait_for(lambda: visible(deployment, pod["metadata"]["name"]), "the container's devices")
    assert len(set(devices.split(","))) == 2, devices


def visible(deployment, pod):
    """The devices that its container sees; empty while it does not run."""
    script = "echo devices=$NVIDIA_VISIBLE_DEVICES"
    said = deployment.kubectl("exec", pod, "--", "sh", "-c", script, check=False)
    found = re.search("^devices=(.+)$", said, re.MULTILINE)
    return found[1] if found else ""


def test_more_gpus_than_there_are_wait_in_the_schedulers_words(gpus, make_deployment):
    deployment = make_deployment(model=MODEL, gpus=64)
    found = deployment.condition("Scheduled", "WaitingForGPU")
    assert found["status"] == "False"
    assert f"Insufficient {RESOURCE}" in found["message"]
    assert deployment.condition("Ready", "WaitingForGPU")["message"] == found["message"]


def test_heads_that_gpus_cannot_share_are_refused_before_any_pod(hub, make_deployment):
    deployment = make_deployment(model="org/three", gpus=2)
    found = deployment.condition("Ready", "InvalidParallelism")
    assert "3 attention heads" in found["message"]
    label = f"app.kubernetes.io/instance={deployment.name}"
    assert deployment.kubectl("get", kinds(), "-l", label, "-o", "name") == ""
    deployment.apply(model="org/three", gpus=3)
    [pod] = wait_for(lambda: deployment.pods("server"), "a server, as three can share them")
    assert "--tensor-parallel=3" in pod["spec"]["containers"][0]["args"]
