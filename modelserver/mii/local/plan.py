"""What runs on this machine: the plan's containers as command lines with ports. Pure.

    container {command, args, env} ─command_line─> argv ─replica/gateway─> ChildSpec with its ports appended

Both `mii up` (containers of the operator's plan) and `mii.serve` (containers built from ModelConfig) end
here, so a laptop runs the command lines that a cluster runs.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mii.errors import MIIError

HOST = "127.0.0.1"

# Programs by the name the container images give them. Run as modules, so that PATH does not matter.
_PROGRAMS = {
    ("mii", "serve"): ("-m", "mii.cli", "serve"),
    ("mii-gateway",): ("-m", "mii_gateway.app"),
}


class Ports(msgspec.Struct, frozen=True):
    """Where one process listens; `probe` is where its /health/live and /health/ready are."""

    http: int
    grpc: int
    probe: int


class ChildSpec(msgspec.Struct, frozen=True):
    """One process to keep running. `env` is added to the supervisor's environment."""

    name: str
    argv: list[str]
    ports: Ports
    env: dict[str, str] = {}
    host: str = HOST  # where the ports can be reached from this machine
    may_end: bool = False  # exit code 0 ends the deployment: its owner has asked it to terminate


class LocalPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment on this machine: n replicas and the gateway in front."""

    name: str
    model: str  # as the user gave it
    served_name: str  # in the OpenAI API
    replicas: list[ChildSpec]
    gateway: ChildSpec
    drain_timeout: float = 120.0  # seconds that running requests get at shutdown
    startup_timeout: float = 1800.0  # seconds until a replica must be ready
    load_attempts: int = 3  # starts that may fail in a row before the first readiness

    @property
    def http_url(self) -> str:
        return f"http://{self.gateway.host}:{self.gateway.ports.http}"

    @property
    def grpc_address(self) -> str:
        return f"{self.gateway.host}:{self.gateway.ports.grpc}"


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container as far as a process needs it: what a pod's container spec says."""

    command: list[str]
    args: list[str]
    env: dict[str, str] = {}


def container(spec: Mapping[str, Any]) -> Container:
    """From a Kubernetes container spec, whose env must be plain values."""
    env = {}
    for variable in spec.get("env", ()):
        if "value" not in variable:
            raise MIIError(f"env {variable['name']}: only plain values exist outside a cluster")
        env[variable["name"]] = variable["value"]
    return Container(command=list(spec["command"]), args=list(spec["args"]), env=env)


def command_line(command: Sequence[str], args: Sequence[str]) -> list[str]:
    """The argv that runs a container's command with this Python interpreter."""
    program = _PROGRAMS.get(tuple(command))
    if program is None:
        known = ", ".join(" ".join(name) for name in _PROGRAMS)
        raise MIIError(f"cannot run the container command {' '.join(command)!r} here; known are: {known}")
    return [sys.executable, *program, *args]


def replica(
    spec: Container, *, index: int, ports: Ports, env: Mapping[str, str], extra: Sequence[str]
) -> ChildSpec:
    """Replica number `index`. Appended options win over the container's own: argparse takes the last."""
    where = [f"--host={HOST}", f"--port={ports.http}", f"--grpc-port={ports.grpc}"]
    return ChildSpec(
        name=f"replica-{index}",
        argv=command_line(spec.command, [*spec.args, *extra, *where]),
        ports=ports,
        env={**spec.env, **env},
    )


def gateway(
    spec: Container, *, host: str, ports: Ports, replicas: Sequence[ChildSpec], extra: Sequence[str] = ()
) -> ChildSpec:
    """The gateway in front of `replicas`."""
    where = [f"--host={host}", f"--port={ports.http}", f"--grpc-port={ports.grpc}"]
    probe = [f"--probe-port={ports.probe}"]
    behind = [f"--replica={r.host}:{r.ports.http}/{r.ports.grpc}" for r in replicas]
    return ChildSpec(
        name="gateway",
        argv=command_line(spec.command, [*spec.args, *extra, *where, *probe, *behind]),
        ports=ports,
        env=dict(spec.env),
        host=reachable(host),
        may_end=True,
    )


def reachable(host: str) -> str:
    """Where a server that listens on `host` is reached from this machine, as URLs write it."""
    if host in ("0.0.0.0", "::", "", "localhost"):
        return HOST
    return f"[{host}]" if ":" in host else host


def has_option(args: Sequence[str], name: str) -> bool:
    """Whether a command line sets `--name`, in either spelling."""
    return any(arg == name or arg.startswith(name + "=") for arg in args)


def cpu_threads(args: Sequence[str], *, cores: int, replicas: int) -> list[str]:
    """Shares the cores between replicas of the CPU backend, unless the command line says otherwise."""
    if has_option(args, "--cpu-threads"):
        return []
    return [f"--cpu-threads={max(1, cores // replicas)}"]
