"""A cluster that runs the images: the chart installed, one MIIDeployment of SmolLM2, continuous load on it.

Everything is asked of the cluster that KUBECONFIG names; only what has no API (killing a process of a pod or
the API server) needs the processes in sight, as they are with ../shared/devcluster and with kind.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import psutil
import pytest
import yaml

from .load import Address, Load

ROOT = Path(__file__).parents[3]
TAG = yaml.safe_load((ROOT / "charts/mii-operator/Chart.yaml").read_text())["appVersion"]
IMAGES = [f"localhost/{name}:{TAG}" for name in ("mii-operator", "mii-smollm2")]
CRD = "miideployments.mii.dev"
ENABLE = 'eval "$(tests/e2e/cluster/rig /tmp/rig)"'
NAME = "smollm2"
SECONDS = 180.0  # for a pod to start or to end

Object = dict[str, Any]


def kubectl(*args: str, manifest: Object | None = None, check: bool = True) -> str:
    """What it prints; without `check` also its complaint."""
    text = None if manifest is None else json.dumps(manifest)
    done = subprocess.run(["kubectl", *args], input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr}")
    return (done.stdout + done.stderr if done.returncode else done.stdout).strip()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The first true value of a condition of the cluster."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)
    return value


class Deployment:
    """The MIIDeployment `smollm2` of a namespace, and what the operator has made of it."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(self, *args: str, manifest: Object | None = None, check: bool = True) -> str:
        return kubectl("-n", self.namespace, *args, manifest=manifest, check=check)

    def get(self, kind: str, *args: str) -> Any:
        return json.loads(self.kubectl("get", kind, *args, "-o", "json"))

    def change(self, **spec: Any) -> None:
        """Merges into the spec, and waits until it runs as changed and nothing of the old is left."""
        self.kubectl("patch", "mii", NAME, "--type=merge", "-p", json.dumps({"spec": spec}))
        self.wait()

    def wait(self) -> None:
        """Until everything is as the spec says, and no pod is on its way out."""
        wait_for(self.settled, "the deployment is as its spec says")

    def settled(self) -> bool:
        found = self.get("mii", NAME)
        status, spec = found.get("status", {}), found["spec"]
        ready = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and ready.get("status") == "True"
            and self._rolled("server", spec.get("replicas", 1))
            and self._rolled("gateway", spec.get("gateway", {}).get("replicas", 1))
        )

    def _rolled(self, component: str, replicas: int) -> bool:
        deployment = self.get("deployment", f"{NAME}-{component}")
        status = deployment["status"]
        counts = {status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")}
        return (
            status.get("observedGeneration") == deployment["metadata"]["generation"]
            and counts == {deployment["spec"]["replicas"]} == {replicas}
            and len(self.pods(component)) == replicas
        )

    def pods(self, component: str) -> list[Object]:
        """Those that are going included."""
        label = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component={component}"
        found: list[Object] = self.get("pods", "-l", label)["items"]
        return found

    def address(self) -> Address:
        """Of the Service. Skips where this machine has no way to it."""
        host = self.get("service", NAME)["spec"]["clusterIP"]
        try:
            socket.create_connection((host, 80), timeout=5).close()
        except OSError as error:
            pytest.skip(f"Services cannot be reached from here: {error}")
        return Address(host, 80, 50050)


def processes(pod: Object) -> list[psutil.Process]:
    """Those of a pod's containers, as far as this machine sees them."""
    uid = pod["metadata"]["uid"]
    marks = (uid, uid.replace("-", "_"))
    found = []
    for process in psutil.process_iter():
        try:
            cgroups = Path(f"/proc/{process.pid}/cgroup").read_text()
        except OSError:
            continue
        if any(mark in cgroups for mark in marks):
            found.append(process)
    if not found:
        pytest.skip("the nodes' processes cannot be seen from here")
    return found


@pytest.fixture(scope="session")
def cluster() -> None:
    """One whose nodes have the images."""
    if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
        pytest.skip(f"no cluster: {ENABLE}")
    if os.environ.get("MII_E2E_IMAGES") == "1":
        return
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    images = [image for node in nodes for image in node["status"].get("images", ())]
    there = {name for image in images for name in image["names"] or ()}
    if missing := [name for name in IMAGES if name not in there]:
        pytest.skip(f"no node has {' and '.join(missing)} (MII_E2E_IMAGES=1 if it does): {ENABLE}")


@pytest.fixture(scope="session")
def namespace(cluster: None) -> Iterator[str]:
    """With the chart installed, for this namespace alone."""
    name = f"mii-e2e-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    if kubectl("get", "crd", CRD, "--ignore-not-found"):
        kubectl("label", "crd", CRD, "--overwrite", "app.kubernetes.io/managed-by=Helm")
        owner = ("meta.helm.sh/release-name=mii", f"meta.helm.sh/release-namespace={name}")
        kubectl("annotate", "crd", CRD, "--overwrite", *owner)
    values = {"watchNamespaces": [name], "images": {"server": "mii-smollm2", "tag": TAG}}
    with helm_python.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=name) as helm:
        helm.install(ROOT / "charts/mii-operator", "mii", values, namespace=name)
        yield name
        kubectl("delete", "mii", "--all", "-n", name)
        helm.uninstall("mii")
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def deployment(namespace: str) -> Deployment:
    """Ready: one server, two gateways, an API key for the tenant `load`."""
    found = Deployment(namespace)
    found.kubectl("create", "secret", "generic", "keys", "--from-literal=load=first")
    spec: Object = {
        "model": "file:///models/smollm2.gguf",
        "servedName": NAME,
        "gpus": 0,
        "engine": {"maxModelLen": 1024, "args": ["--kv-blocks=64", "--cpu-threads=1"]},
        "gateway": {"replicas": 2, "apiKeysSecretRef": {"name": "keys"}},
        "rollout": {"drainTimeout": "30s"},
    }
    document = {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": {"name": NAME}}
    found.kubectl("apply", "-f", "-", manifest={**document, "spec": spec})
    wait_for(lambda: found.get("mii", NAME).get("status"), "the operator takes it up")
    found.wait()
    return found


@pytest.fixture(scope="session")
def load(deployment: Deployment) -> Iterator[Load]:
    with Load(deployment.address(), NAME, "first") as load:
        yield load
