"""No request fails, whatever is done to the cluster.

The tests share one MIIDeployment and the load on it, and leave them as they found them: one server, two
gateways.
"""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from .kube import api_version, kubectl, processes, wait_for
from .release import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

ARGS = ["--kv-blocks=64", "--cpu-threads=1"]


@pytest.fixture(scope="module", autouse=True)
def _as_found(deployment):
    yield
    deployment.change(replicas=1)


@pytest.fixture
def one_server(deployment):
    deployment.change(replicas=1)


@pytest.fixture
def two_servers(deployment):
    """For what takes one away."""
    deployment.change(replicas=2)


def test_new_arguments_roll_the_server(deployment, none_fails):
    before = deployment.names("server")
    with none_fails("engine.args"):
        deployment.change(engine={"args": [*ARGS, "--max-running=16"]})
    assert not before & deployment.names("server")


def test_scaling_up_and_down(deployment, one_server, none_fails):
    with none_fails("scale 1 to 3"):
        deployment.change(replicas=3)
    with none_fails("scale 3 to 1"):
        deployment.change(replicas=1)


def test_the_only_server_is_deleted(deployment, one_server, none_fails):
    """Requests wait for the next one."""
    with none_fails("delete of the only pod"):
        deployment.kubectl("delete", "pod", *deployment.names("server"))
        deployment.wait()


def test_the_gateways_roll(deployment, none_fails):
    before = deployment.names("gateway")
    with none_fails("gateway rollout"):
        deployment.change(gateway={"queue": {"maxRequests": 100}})
        wait_for(lambda: not before & deployment.names("gateway"), "new gateways")
        deployment.wait()


def test_the_operator_is_killed_and_restarted(deployment, none_fails):
    label = "app.kubernetes.io/name=mii-operator"
    with none_fails("operator killed"):
        deployment.kubectl("delete", "pod", "-l", label, "--grace-period=0", "--force")
        deployment.change(engine={"args": [*ARGS, "--max-running=15"]})
    before = deployment.names("server")
    with none_fails("operator restarted"):
        deployment.kubectl("rollout", "restart", "deployment/mii-operator")
        deployment.kubectl("rollout", "status", "deployment/mii-operator", "--timeout=300s")
        deployment.wait()
    assert deployment.names("server") == before, "a restart of the operator disturbs nothing"


def test_the_api_server_is_killed(deployment, none_fails):
    rig = os.environ.get("DEVCLUSTER_DIR")
    if not rig:
        pytest.skip("not a cluster of ../shared/devcluster: its API server is not ours to kill")
    script = Path(__file__).with_name("kill_apiserver.py")
    env = {**os.environ, "PYTHONPATH": str(ROOT.parent / "shared/devcluster")}
    with none_fails("API server killed"):
        subprocess.run([sys.executable, script, rig], env=env, check=True)
        wait_for(lambda: kubectl("get", "--raw", "/readyz", check=False) == "ok", "the API server is ready")
        deployment.change(replicas=2)  # the operator and the gateways have found their way back to it
        deployment.change(replicas=1)


def test_an_api_key_is_replaced(deployment, load, none_fails, api_key):
    """Both keys are good while clients change over; then the old one is nobody's."""
    keys = {"load": api_key, "new": "second"}
    with none_fails("key added"):
        deployment.write_secret("keys", keys)
        wait_for(lambda: answers(deployment, "second") == 200, "the new key is known")
    load.key = "second"
    load.settle()
    with none_fails("key removed"):
        deployment.write_secret("keys", {"new": "second"})
        wait_for(lambda: answers(deployment, api_key) == 401, "the old key is forgotten")
    deployment.write_secret("keys", keys)
    wait_for(lambda: answers(deployment, api_key) == 200, "the first key is back")
    load.key = api_key


def test_a_server_is_deleted(deployment, two_servers, none_fails):
    pod = sorted(deployment.names("server"))[0]
    with none_fails("pod delete"):
        deployment.kubectl("delete", "pod", pod)
        deployment.wait()


def test_a_node_is_drained(deployment, two_servers, none_fails):
    """By evictions, one after another as the PodDisruptionBudgets allow, which is how a drain works."""
    before = deployment.names("server", "gateway")
    with none_fails("drain"):
        for pod in sorted(before):
            wait_for(lambda pod=pod: evicted(deployment, pod), f"the budget allows {pod} to go")
        wait_for(lambda: not before & deployment.names("server", "gateway"), "all have gone")
        deployment.wait()


def test_a_server_is_killed(deployment, two_servers, load):
    """Only what it was streaming is lost, and is told so."""
    victim = deployment.pods("server")[0]
    before = restarts(deployment)
    with load.mark("SIGKILL of a server") as during:
        main = next(p for p in processes(victim) if "serve" in p.cmdline())
        main.send_signal(signal.SIGKILL)
        wait_for(lambda: restarts(deployment) > before, "the server starts again")
        deployment.wait()
    assert during.requests
    assert [str(outcome) for outcome in during.failed if not outcome.streaming] == []
    assert all("replica" in outcome.error or "server" in outcome.error for outcome in during.failed)


def restarts(deployment):
    pods = deployment.pods("server")
    return sum(s["restartCount"] for pod in pods for s in pod["status"].get("containerStatuses", ()))


def evicted(deployment, pod):
    """Whether the API server let it go; if not, because of a budget."""
    metadata = {"name": pod, "namespace": deployment.namespace}
    version = api_version("policy", "v1", "v1beta1")
    eviction = {"apiVersion": version, "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{deployment.namespace}/pods/{pod}/eviction"
    said = kubectl("create", "--raw", path, "-f", "-", manifest=eviction, check=False)
    assert '"Success"' in said or "disruption budget" in said, said
    return '"Success"' in said


def answers(deployment, key):
    """What all gateways say to a key; 0 while they differ."""
    found = set()
    for pod in deployment.pods("gateway"):
        request = urllib.request.Request(
            f"http://{pod['status']['podIP']}:8000/v1/models", headers={"Authorization": f"Bearer {key}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                found.add(response.status)
        except urllib.error.HTTPError as error:
            with error:
                found.add(error.code)
    return found.pop() if len(found) == 1 else 0
