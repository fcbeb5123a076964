"""`mii status` asks a real API server, through the real kubectl."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mii import cli

pytestmark = pytest.mark.cluster

SINCE = "2026-01-01T00:00:00Z"
LABELS = {
    "app.kubernetes.io/managed-by": "mii-operator",
    "app.kubernetes.io/instance": "m",
    "app.kubernetes.io/component": "server",
}


@pytest.fixture
def deployed(cluster, namespace):
    """deployed(reason, message): a MIIDeployment `m` whose status says so."""

    def make(reason: str, message: str = "") -> None:
        metadata = {"name": "m", "namespace": namespace}
        document = {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": metadata}
        cluster.apply({**document, "spec": {"model": "org/model"}})
        generation = cluster.get(namespace, "mii", "m")["metadata"]["generation"]
        status = "True" if reason == "Ready" else "False"
        ready = {"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": SINCE}
        gateway = {**ready, "type": "GatewayReady", "status": "True", "reason": "GatewayReady"}
        conditions = [{**ready, **({"message": message} if message else {})}, gateway]
        patch = json.dumps({"status": {"observedGeneration": generation, "conditions": conditions}})
        where = ("mii", "m", "-n", namespace, "--subresource=status")
        cluster.kubectl("patch", *where, "--type=merge", "-p", patch)

    return make


def test_what_waits_is_explained_in_the_clusters_words(cluster, namespace, deployed, capsys):
    deployed("WaitingForGPU", "none free")
    cluster.wait(lambda: cluster.get(namespace, "sa", "default"))
    container = {"name": "server", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "64"}}}
    metadata = {"name": "p", "namespace": namespace, "labels": LABELS}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    )

    def said() -> dict[str, Any]:
        assert cli.main(["status", "m", "-n", namespace, "-o", "json"]) == 3
        made: dict[str, Any] = json.loads(capsys.readouterr().out)
        return made if made["pods"] and made["pods"][0]["said"] and made["events"] else {}

    made = cluster.wait(said)
    assert made["pods"][0]["said"].startswith("scheduler: ")
    assert made["notes"] == []
    assert made["events"][0]["about"] == "Pod/p"


def test_what_is_ready_is_0(cluster, namespace, deployed, capsys):
    deployed("Ready")
    assert cli.main(["status", "m", "-n", namespace]) == 0
    assert f"kubectl -n {namespace} port-forward service/m 8000:80" in capsys.readouterr().out
    assert cli.main(["status", "-n", namespace]) == 0
    assert cli.main(["status", "n", "-n", namespace]) == 1
    assert f"no MIIDeployment n in namespace {namespace}; there are: m" in capsys.readouterr().err


def test_kubectl_finds_the_plugin(cluster, namespace, deployed):
    deployed("CrashLooping", "m-server-x: out of memory")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["kubectl", "mii", "status", "m", "-n", namespace]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 3, done.stderr
    assert "m-server-x: out of memory" in done.stdout
    assert "OOMKilled: raise the memory limit" in done.stdout


def test_who_may_read_nothing_is_told_what_to_ask_for(cluster, namespace, tmp_path, monkeypatch, capsys):
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "yaml"))
    for user in config["users"]:
        user["user"]["as"] = f"system:serviceaccount:{namespace}:default"
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert cli.main(["status", "-n", namespace]) == 1
    assert "ask for the permission to get and list miideployments.mii.dev" in capsys.readouterr().err
