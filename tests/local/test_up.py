"""`mii up`: what it refuses, what it would run, and, slow, the real thing."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

import mii
from mii.cli import main
from mii.errors import MIIError
from mii.local import ports, state, up
from mii_spec.launch import GatewayArgs, ServerArgs, parse
from mii_spec.spec import parse as parse_manifest

MANIFEST = """\
apiVersion: mii.dev/v1alpha1
kind: MIIDeployment
metadata: {name: demo}
spec:
  model: org/model
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "mii.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("mii.local.devices.usable_cores", lambda: 8)


def prepared(**spec):
    document = {
        "apiVersion": "mii.dev/v1alpha1",
        "kind": "MIIDeployment",
        "metadata": {"name": "demo"},
        "spec": {"model": "org/model", **spec},
    }
    http, grpc = ports.free(2)
    return up.prepare(parse_manifest(document), host="127.0.0.1", port=http, grpc_port=grpc)


def test_wrong_fields_are_listed_one_a_line(written, capsys):
    wrong = MANIFEST + "  replicas: -1\n  engine: {dtype: int4}\n"
    path = written(wrong)
    assert main(["up", "-f", path]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert any(line.startswith(f"{path}: spec.replicas: ") for line in lines)
    assert any(line.startswith(f"{path}: spec.engine.dtype: ") for line in lines)


def test_more_than_one_document_is_refused(written, capsys):
    assert main(["up", "-f", written(MANIFEST + "---\nkind: Secret\n")]) == 2
    assert "MIIDeployment/demo, Secret/no name" in capsys.readouterr().err


def test_what_needs_a_cluster_is_refused_whatever_ports_are_taken(written, capsys):
    needs = MANIFEST + "  autoscaling: {min: 1, max: 2}\n  tokenSecretRef: {name: hf, key: token}\n"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["up", "-f", written(needs), "--port", str(taken.getsockname()[1])]) == 1
    message = capsys.readouterr().err
    assert "spec.autoscaling" in message
    assert "spec.tokenSecretRef" in message


def test_a_taken_port_is_refused(written, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["up", "-f", written(MANIFEST), "--port", str(port)]) == 1
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.usefixtures("cpu")
def test_the_plan_runs_with_ports_of_this_machine():
    plan = prepared(replicas=2, servedName="served", engine={"args": ["--max-running=3"]})
    replicas = [parse(ServerArgs, child.argv[4:]) for child in plan.replicas]
    assert {(r.model, r.host, r.max_running, r.cpu_threads, r.deployment_name) for r in replicas} == {
        ("org/model", "127.0.0.1", 3, 4, "demo")
    }
    assert len({port for r in replicas for port in (r.port, r.grpc_port)}) == 4
    gateway = parse(GatewayArgs, plan.gateway.argv[3:])
    assert gateway.replica == tuple(f"127.0.0.1:{r.port}/{r.grpc_port}" for r in replicas)
    assert gateway.owner_token_file == str(state.token_file("demo"))
    assert (plan.served_name, plan.drain_timeout, plan.startup_timeout) == ("served", 120, 1800)


@pytest.mark.usefixtures("cpu")
def test_cores_that_are_given_are_kept():
    plan = prepared(replicas=2, engine={"args": ["--cpu-threads=1"]})
    assert parse(ServerArgs, plan.replicas[0].argv[4:]).cpu_threads == 1


def test_replicas_on_gpus_have_their_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    plan = prepared(replicas=2)
    assert [child.env for child in plan.replicas] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    assert parse(ServerArgs, plan.replicas[0].argv[4:]).device == "cuda"


def test_more_replicas_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(MIIError, match="need 3, but 2 are visible"):
        prepared(replicas=3)
    assert not state.deployment_dir("demo").exists()


@pytest.fixture
def run_up(tmp_path, smollm2):
    """Starts the real `mii up` on SmolLM2; whatever the test does, it is gone afterwards."""
    manifest = tmp_path / "smol.yaml"
    manifest.write_text(MANIFEST.replace("org/model", f"file://{smollm2}") + "  replicas: 2\n")
    http, grpc = ports.free(2)
    command = [sys.executable, "-m", "mii.cli", "up", "-f", str(manifest)]
    command += ["--port", str(http), "--grpc-port", str(grpc)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if "is ready" in line:
                    break
            yield process, f"http://127.0.0.1:{http}"
        finally:
            process.kill()
            process.stdout.close()


def post(url, body):
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def descendants(pid):
    import psutil

    return psutil.Process(pid).children(recursive=True)


def engines(pid):
    """The engine processes below a process."""
    import psutil

    found = []
    for one in descendants(pid):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "mii.engine.process" in one.cmdline():
                found.append(one)
    return found


@pytest.mark.slow
def test_the_real_thing(run_up, eventually, capsys):
    process, url = run_up
    answer = post(f"{url}/mii/demo", {"prompts": ["One", "Two"], "max_new_tokens": 4})
    assert len(answer) == 2
    with mii.client("demo") as client:
        assert client("Three", max_new_tokens=4)[0].generated_length <= 4
    processes = descendants(process.pid)
    assert main(["list"]) == 0
    assert re.match(r"demo\t", capsys.readouterr().out)
    assert main(["down", "demo"]) == 0
    assert process.wait(timeout=60) == 0
    assert not any(one.is_running() and one.status() != "zombie" for one in processes)


@pytest.mark.slow
async def test_a_killed_engine_is_replaced(run_up, eventually):
    process, url = run_up
    before = engines(process.pid)
    assert len(before) == 2
    before[0].kill()
    await eventually(lambda: len(now := engines(process.pid)) == 2 and before[0] not in now)
    assert post(f"{url}/mii/demo", {"prompts": "One", "max_new_tokens": 2})


@pytest.mark.slow
async def test_killed_by_kill_9_it_leaves_nothing(run_up, eventually):
    process, _ = run_up
    processes = descendants(process.pid)
    assert len(processes) > 4
    os.kill(process.pid, signal.SIGKILL)
    await eventually(lambda: not any(one.is_running() and one.status() != "zombie" for one in processes))


@pytest.mark.slow
def test_a_model_that_cannot_load_ends_with_its_reason(written, capfd, tmp_path):
    (tmp_path / "empty").mkdir()
    http, grpc = ports.free(2)
    manifest = written(MANIFEST.replace("org/model", f"file://{tmp_path}/empty"))
    command = [
        sys.executable,
        "-m",
        "mii.cli",
        "up",
        "-f",
        manifest,
        "--port",
        str(http),
        "--grpc-port",
        str(grpc),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert f"{tmp_path}/empty" in answer.stderr
