"""`mii status` and `kubectl mii status`, with a kubectl that answers as the real one."""

import json
import shlex
import subprocess

import pytest

from mii import cli
from mii.cluster.kubectl import failure

READY = {
    "Ready": ("True", "Ready", "1 of 1 replicas are ready"),
    "GatewayReady": ("True", "GatewayReady", ""),
}
STUCK = {
    "Ready": ("False", "ImagePullFailed", "m-server-x: nope"),
    "Accepted": ("True", "Planned", "width 1"),
}
ONE = "get miideployments.mii.dev m"
ALL = "get miideployments.mii.dev --"
NOT_FOUND = 'Error from server (NotFound): miideployments.mii.dev "m" not found'


def calls(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_ready_one_is_0_and_says_how_to_ask_it(kubectl, resource, capsys):
    made = kubectl({ONE: resource(READY)})
    assert cli.main(["status", "m", "-n", "prod", "--context", "here"]) == 0
    said = capsys.readouterr().out
    assert "m in prod is ready" in said
    assert "http://m.prod.svc, gRPC m.prod.svc:50050" in said
    curl = shlex.split(said.splitlines()[-1])
    assert json.loads(curl[-1])["model"] == "org/model"
    assert "kubectl --context here -n prod port-forward" in said
    assert all(words[-2:] == ["--context", "here"] for words in calls(made))


def test_the_engines_figures(kubectl, resource, capsys):
    loaded = resource(READY)
    figures = {"kvBlocks": 9000, "maxModelLen": 8192, "revision": "c0ffee", "loadSeconds": 31.234}
    loaded["status"]["engine"] = {"tensorParallel": 2, "device": "NVIDIA H100", **figures}
    kubectl({ONE: loaded})
    cli.main(["status", "m"])
    said = capsys.readouterr().out
    assert "org/model, 0/1 replicas ready, 2 GPUs each" in said
    assert (
        "NVIDIA H100, tensor parallel 2, 9000 KV blocks of 64 tokens, at most 8192 tokens, commit c0ffee, "
        "loaded in 31.2 s"
    ) in said


def test_a_stuck_one_is_3_and_says_why(kubectl, resource, pod, capsys):
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    stuck = pod(containerStatuses=[{"name": "server", "restartCount": 2, "state": waiting}])
    kubectl({ONE: resource(STUCK), "get pods": {"items": [stuck]}})
    assert cli.kubectl_plugin(["status", "m"]) == 3
    said = capsys.readouterr().out
    assert "not ready: ImagePullFailed" in said
    assert "→ Check images.registry" in said
    assert "m-server-x: kubelet: no such image" in said
    assert "kubectl -n prod logs m-server-x --previous" in said
    assert "Ask it" not in said


def test_all_of_them_are_a_table(kubectl, resource, capsys):
    kubectl({ALL: {"items": [resource(READY), resource(STUCK)]}})
    assert cli.main(["status", "-A"]) == 3
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAMESPACE", "NAME", "MODEL", "TP", "READY", "REASON", "AGE"]
    assert first.split()[:4] == ["prod", "m", "org/model", "0/1"]
    assert "ImagePullFailed" in second


def test_none_at_all(kubectl, capsys):
    kubectl({})
    assert cli.main(["status", "-n", "empty"]) == 0
    assert "no MIIDeployment is in namespace empty" in capsys.readouterr().err


def test_json(kubectl, resource, capsys):
    kubectl({ONE: resource(STUCK), ALL: {"items": [resource(READY)]}})
    assert cli.main(["status", "m", "-o", "json"]) == 3
    one = json.loads(capsys.readouterr().out)
    assert one["verdict"]["reason"] == "ImagePullFailed"
    assert one["verdict"]["advice"]
    assert cli.main(["status", "-o", "json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["ready"] is True


def test_what_may_not_be_read_is_named_and_the_rest_shown(kubectl, resource, capsys):
    forbidden = "Error from server (Forbidden): {} is forbidden: User cannot list"
    two = "\n".join(map(forbidden.format, ("jobs.batch", "deployments.apps")))
    kubectl({ONE: resource(READY), "get pods": two, "get events": "Unable to connect to the server"})
    assert cli.main(["status", "m"]) == 0
    said = capsys.readouterr().out
    assert "not shown: jobs.batch, deployments.apps: not permitted\n" in said
    assert "not shown: Unable to connect to the server; is the cluster up" in said


def test_a_name_that_is_not_there(kubectl, resource, capsys):
    other = resource(READY)
    other["metadata"]["name"] = "mistral"
    kubectl({"get miideployments.mii.dev mistrall": NOT_FOUND, ALL: {"items": [other]}})
    assert cli.main(["status", "mistrall", "-n", "prod"]) == 1
    assert capsys.readouterr().err == (
        "mii status: error: no MIIDeployment mistrall in namespace prod; did you mean mistral?\n"
    )


@pytest.mark.parametrize(
    ("complaint", "hint"),
    [
        ('error: the server doesn\'t have a resource type "miideployments"', "helm install"),
        ("Error from server (Forbidden): x is forbidden: User", "permission to get and list"),
        ("The connection to the server localhost:8080 was refused - did you?", "is the cluster up"),
        ("E1127 memcache.go:265] x\nUnable to connect to the server: dial tcp: lookup", "is the cluster up"),
        ("error: context was not found for specified context: x", "get-contexts"),
        ("error: You must be logged in to the server (Unauthorized)", "log in"),
    ],
)
def test_complaints_come_with_a_hint(complaint, hint):
    made = str(failure(complaint))
    assert hint in made
    assert "\n" not in made
    assert complaint.splitlines()[-1].removeprefix("error: ").rstrip("?") in made


def test_without_kubectl(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["status"]) == 1
    assert "kubectl is not on PATH; install it" in capsys.readouterr().err


def test_a_name_is_of_one_namespace(kubectl, capsys):
    kubectl({})
    assert cli.main(["status", "m", "-A"]) == 1
    with pytest.raises(SystemExit) as end:
        cli.main(["status", "-A", "-n", "x"])
    assert end.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_it_imports_neither_torch_nor_the_operator(kubectl):
    """`pip install mii-kubernetes[cli]` is enough for it."""
    import sys

    kubectl({})
    lean = "{'torch', 'kopf', 'aiohttp', 'pydantic', 'msgspec'} & set(sys.modules)"
    code = f"import sys; from mii.cli import main; main(['status']); print({lean})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_plugin_knows_only_what_asks_the_cluster(capsys):
    with pytest.raises(SystemExit):
        cli.kubectl_plugin(["--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: kubectl mii ")
    assert "status" in said
    assert "serve" not in said
