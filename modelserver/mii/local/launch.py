"""Starts the deployment of mii.serve under a detached supervisor and waits until it is ready."""

import contextlib
import subprocess
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from mii.errors import DeploymentFailed, DeploymentNotFoundError
from mii.local import containers, devices, plan, ports, report, shutdown, state
from mii.local.plan import LocalPlan
from mii.local.process import tail
from mii.local.view import TerminalView
from mii.mii_config import MIIConfig


def launch(config: MIIConfig) -> None:
    """Returns when every process is ready; they go on without this one.

    Raises DeploymentFailed with the failed process's words, or MIIError when a port, a GPU or the name is
    taken. However it raises, no process is left.
    """
    start(prepare(config))


def start(prepared: LocalPlan) -> None:
    """Runs a prepared plan under a detached supervisor; as launch does."""
    supervisor = _spawn(prepared)
    try:
        _hand_over(prepared, supervisor)
        _wait_ready(prepared, supervisor)
    except BaseException:
        _end(prepared.name, supervisor)
        raise
    finally:
        assert supervisor.stdout
        supervisor.stdout.close()
        supervisor.wait()  # it has ended, or forked the process that stays


def prepare(config: MIIConfig) -> LocalPlan:
    """The plan on this machine's ports and devices, its name claimed."""
    _require_ports(config)
    gpu_env = _gpu_env(config)
    state.prepare(config.deployment_name)
    replicas = config.model_conf.replica_num
    return containers.local_plan(
        config,
        token_file=str(state.token_file(config.deployment_name)),
        free_ports=ports.free(replicas + 2),
        gpu_env=gpu_env,
        extra=[] if any(gpu_env) else _cpu_share(config),
    )


def _require_ports(config: MIIConfig) -> None:
    host = containers.http_host(config)
    ports.require(host, {"port_number": config.port_number})
    if config.enable_restful_api:
        ports.require(host, {"restful_api_port": config.restful_api_port})
    first, count = config.port_number + 1, config.model_conf.replica_num
    ports.require(plan.HOST, {f"port_number (replicas {port})": port for port in range(first, first + count)})


def _gpu_env(config: MIIConfig) -> list[dict[str, str]]:
    model = config.model_conf
    gpus = [] if model.engine_options.get("device") == "cpu" else devices.visible_gpus()
    if model.device_map != "auto":
        return devices.map_gpus(model.device_map, gpus, replicas=model.replica_num)
    per_replica = model.tensor_parallel if gpus else 0
    return devices.share_gpus(gpus, replicas=model.replica_num, per_replica=per_replica)


def _cpu_share(config: MIIConfig) -> list[str]:
    args = containers.server(config).args
    return plan.cpu_threads(args, cores=devices.usable_cores(), replicas=config.model_conf.replica_num)


def _spawn(prepared: LocalPlan) -> "subprocess.Popen[bytes]":
    with open(_supervisor_log(prepared.name), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mii.local"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # survives this script and its terminal
        )


def _hand_over(prepared: LocalPlan, supervisor: "subprocess.Popen[bytes]") -> None:
    assert supervisor.stdin
    with supervisor.stdin as stdin:
        stdin.write(msgspec.json.encode(prepared))
    supervisor.wait()


def _wait_ready(prepared: LocalPlan, supervisor: "subprocess.Popen[bytes]") -> None:
    assert supervisor.stdout
    with TerminalView(Console(stderr=True), prepared, logs=state.log_dir(prepared.name)) as view:
        for message in report.read(supervisor.stdout):
            match message:
                case report.Changed(event):
                    view.event(event)
                case report.Ready():
                    return view.ready()
                case report.Failed(reason):
                    raise DeploymentFailed(f"{prepared.name}: {reason}")
    words = "\n  ".join(tail(_supervisor_log(prepared.name))[-12:])
    raise DeploymentFailed(f"{prepared.name}: the supervisor ended before it was ready\n  {words}")


def _end(name: str, supervisor: "subprocess.Popen[bytes]") -> None:
    """Ends what was started, at whatever point it is."""
    if not any(record.name == name for record in state.running()):
        assert supervisor.stdout
        supervisor.stdout.readline()  # the first report follows the record; a dead supervisor sends none
    with contextlib.suppress(DeploymentNotFoundError):
        shutdown.end(state.find(name), lambda: False)


def _supervisor_log(name: str) -> Path:
    return state.log_dir(name) / "supervisor.log"
