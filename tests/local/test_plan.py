import subprocess
import sys

import pytest

from mii.errors import MIIError
from mii.local import plan
from mii.local.plan import Container, Ports
from mii_spec import launch
from mii_spec.launch import GatewayArgs, ServerArgs, to_argv

PORTS = Ports(http=8000, grpc=50050, probe=8081)


def program(argv):
    """The arguments of `python -m mii.cli serve` or `python -m mii_gateway.app`."""
    assert argv[0] == sys.executable
    return argv[4:] if argv[3] == "serve" else argv[3:]


def test_known_commands_become_modules():
    assert plan.command_line(["mii", "serve"], ["m"])[1:] == ["-m", "mii.cli", "serve", "m"]
    assert plan.command_line(["mii-gateway"], [])[1:] == ["-m", "mii_gateway.app"]


def test_an_unknown_command_is_refused_by_name():
    with pytest.raises(MIIError, match=r"'sleep 9'.* known are: mii serve, mii-gateway"):
        plan.command_line(["sleep", "9"], [])


@pytest.mark.parametrize("command", [["mii", "serve"], ["mii-gateway"]])
def test_the_programs_exist(command):
    argv = plan.command_line(command, ["--help"])
    answer = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "--grpc-port" in answer.stdout


def test_a_replicas_own_address_wins_over_the_containers():
    in_pod = ServerArgs(model="m", host="0.0.0.0", port=9999, grpc_port=9998, max_running=7)
    spec = Container(command=["mii", "serve"], args=to_argv(in_pod), env={"A": "1"})
    child = plan.replica(spec, index=3, ports=PORTS, env={"B": "2"}, extra=["--cpu-threads=2"])
    args = launch.parse(ServerArgs, program(child.argv))
    assert (args.host, args.port, args.grpc_port) == ("127.0.0.1", 8000, 50050)
    assert (args.max_running, args.cpu_threads) == (7, 2)
    assert (child.name, child.env, child.may_end) == ("replica-3", {"A": "1", "B": "2"}, False)


def test_the_gateway_knows_its_replicas_and_ports():
    server = Container(command=["mii", "serve"], args=["m"])
    ports = [Ports(http=1, grpc=2, probe=1), Ports(http=3, grpc=4, probe=3)]
    replicas = [plan.replica(server, index=i, ports=p, env={}, extra=[]) for i, p in enumerate(ports)]
    spec = Container(command=["mii-gateway"], args=to_argv(GatewayArgs(deployment_name="d")))
    child = plan.gateway(spec, host="0.0.0.0", ports=PORTS, replicas=replicas, extra=["--queue-timeout=5"])
    args = launch.parse(GatewayArgs, program(child.argv))
    assert args.replica == ("127.0.0.1:1/2", "127.0.0.1:3/4")
    assert (args.host, args.port, args.grpc_port, args.probe_port) == ("0.0.0.0", 8000, 50050, 8081)
    assert (args.deployment_name, args.queue_timeout) == ("d", 5)
    assert child.host == "127.0.0.1"
    assert child.may_end


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("localhost", "127.0.0.1"), ("10.0.0.7", "10.0.0.7"), ("::1", "[::1]")],
)
def test_where_a_listener_is_reached(host, reached):
    assert plan.reachable(host) == reached


def test_kubernetes_containers_with_plain_env_only():
    spec = {"command": ["mii", "serve"], "args": ["m"], "env": [{"name": "A", "value": "1"}]}
    assert plan.container(spec) == Container(command=["mii", "serve"], args=["m"], env={"A": "1"})
    secret = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    with pytest.raises(MIIError, match="env HF_TOKEN: only plain values"):
        plan.container({**spec, "env": [secret]})


@pytest.mark.parametrize(
    ("args", "cores", "replicas", "extra"),
    [
        ([], 8, 2, ["--cpu-threads=4"]),
        ([], 2, 3, ["--cpu-threads=1"]),
        (["--cpu-threads=3"], 8, 2, []),
        (["--cpu-threads", "3"], 8, 2, []),
    ],
)
def test_cores_are_shared_unless_given(args, cores, replicas, extra):
    assert plan.cpu_threads(args, cores=cores, replicas=replicas) == extra
