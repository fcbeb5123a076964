"""A detached deployment, as mii.serve starts it, of fake programs."""

import os
import signal
import socket
import subprocess
import sys
import time

import msgspec
import pytest

from mii.errors import DeploymentFailed, MIIError
from mii.local import launch, shutdown, state
from mii.mii_config import parse_mii_config
from mii_spec.launch import GatewayArgs, ServerArgs, parse

pytestmark = pytest.mark.usefixtures("kill_leftovers")
NAMES = ("gateway", "replica-0", "replica-1")


def gone(alive, fake):
    return not any(alive(pid) for name in NAMES for pid in fake.pids(name))


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # polls a condition of another process


def started(plan):
    state.prepare(plan.name)
    launch.start(plan)
    return state.find(plan.name)


def test_runs_without_its_starter_and_ends_on_request(fake, alive, capfd):
    record = started(fake.plan())
    assert (record.name, record.replicas, record.alive) == ("fake", 2, True)
    assert os.getsid(record.pid) != os.getsid(0), "it survives the terminal"
    assert "fake is ready" in capfd.readouterr().err
    shutdown.end(record, lambda: False)
    assert not record.alive
    assert state.running() == []
    assert gone(alive, fake)


def test_the_gateways_consent_is_enough(fake, alive):
    def ask():
        fake.tell("end", "gateway")
        return True

    record = started(fake.plan())
    shutdown.end(record, ask)
    assert not record.alive
    assert gone(alive, fake)
    assert fake.journal("replica-0")[-1] == "ended", "drained, not killed"


def test_it_survives_the_script_that_started_it(fake, alive):
    plan = fake.plan()
    state.prepare(plan.name)
    script = (
        "import sys, msgspec; from mii.local import launch; from mii.local.plan import LocalPlan\n"
        "launch.start(msgspec.json.decode(sys.stdin.buffer.read(), type=LocalPlan))"
    )
    subprocess.run([sys.executable, "-c", script], input=msgspec.json.encode(plan), check=True)
    record = state.find("fake")
    assert all(alive(fake.pids(name)[0]) for name in NAMES)
    shutdown.end(record, lambda: False)
    assert gone(alive, fake)


def test_a_failed_start_says_why_and_leaves_nothing(fake, alive):
    with pytest.raises(DeploymentFailed) as failure:
        started(fake.plan(mode="broken"))
    words = "cannot start: exit code 1\n  ERROR: cannot load the model\n  because of this"
    assert words in str(failure.value)
    assert state.running() == []
    assert gone(alive, fake)


def test_ctrl_c_while_starting_leaves_nothing(fake, alive, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    plan = fake.plan()
    state.prepare(plan.name)
    monkeypatch.setattr("mii.local.report.read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch.start(plan)
    assert state.running() == []
    assert gone(alive, fake)


def test_ctrl_c_before_the_supervisor_has_forked_leaves_nothing(fake, alive, monkeypatch):
    wait = subprocess.Popen.wait

    def interrupt(process):
        monkeypatch.setattr(subprocess.Popen, "wait", wait)
        raise KeyboardInterrupt

    plan = fake.plan()
    state.prepare(plan.name)
    monkeypatch.setattr(subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch.start(plan)
    assert state.running() == []
    assert gone(alive, fake)


def test_a_killed_supervisor_takes_everything_along(fake, alive):
    record = started(fake.plan())
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: gone(alive, fake))
    assert state.running() == []


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("mii.local.devices.usable_cores", lambda: 8)


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")


@pytest.fixture
def consecutive():
    """The first of a few neighbouring free ports, as mii.serve takes them."""

    def free(port):
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) != 0

    return next(p for p in range(23000, 29000, 10) if all(free(q) for q in range(p, p + 6)))


def prepare(port, **options):
    return launch.prepare(parse_mii_config("org/model", None, None, {"port_number": port, **options}))


def server_args(child):
    return parse(ServerArgs, child.argv[4:])


def gateway_args(prepared):
    return parse(GatewayArgs, prepared.gateway.argv[3:])


@pytest.mark.usefixtures("cpu")
def test_the_plan_of_mii_serve(consecutive):
    prepared = prepare(consecutive, replica_num=2, max_length=512, tokenizer="other/tokenizer")
    replicas = [server_args(child) for child in prepared.replicas]
    assert [args.grpc_port for args in replicas] == [consecutive + 1, consecutive + 2]
    assert {(args.model, args.tokenizer, args.max_model_len) for args in replicas} == {
        ("org/model", "other/tokenizer", 512)
    }
    assert {args.cpu_threads for args in replicas} == {4}, "eight cores for two replicas"
    gateway = gateway_args(prepared)
    assert (gateway.host, gateway.grpc_port) == ("127.0.0.1", consecutive)
    assert gateway.deployment_name == "org/model-mii-deployment"
    assert gateway.owner_token_file == str(state.token_file("org/model-mii-deployment"))
    assert len(gateway.replica) == 2


@pytest.mark.usefixtures("cpu")
def test_the_rest_api_has_its_own_address(consecutive):
    port = consecutive + 5
    rest = {"enable_restful_api": True, "restful_api_port": port, "restful_api_host": "0.0.0.0"}
    prepared = prepare(consecutive, **rest)
    assert (gateway_args(prepared).host, gateway_args(prepared).port) == ("0.0.0.0", port)
    assert prepared.http_url == f"http://127.0.0.1:{port}"


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"replica_num": 2}, ["4", "5"]),
        ({"replica_num": 2, "tensor_parallel": 2}, ["4,5", "6,7"]),
        ({"replica_num": 2, "device_map": [3, 0]}, ["7", "4"]),
        ({"inference_engine_config": {"device": "cpu"}}, [None]),
    ],
)
def test_replicas_see_their_own_gpus(consecutive, options, expected):
    prepared = prepare(consecutive, **options)
    assert [child.env.get("CUDA_VISIBLE_DEVICES") for child in prepared.replicas] == expected


@pytest.mark.usefixtures("gpus")
def test_too_few_gpus_claim_no_name(consecutive):
    with pytest.raises(MIIError, match=r"5 replica\(s\) of 1 GPU\(s\) need 5, but 4 are visible"):
        prepare(consecutive, replica_num=5)
    assert not state.deployment_dir("org/model-mii-deployment").exists()


@pytest.mark.usefixtures("cpu")
def test_a_taken_port_is_named(consecutive):
    taken = consecutive + 1
    with (
        socket.create_server(("127.0.0.1", taken)),
        pytest.raises(MIIError, match=rf":{taken} .*choose another port_number"),
    ):
        prepare(consecutive)


@pytest.mark.usefixtures("cpu")
def test_sync_debug_reaches_the_replicas(consecutive):
    prepared = prepare(consecutive, sync_debug=True)
    assert prepared.replicas[0].env["CUDA_LAUNCH_BLOCKING"] == "1"
