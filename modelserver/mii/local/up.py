"""`mii up -f FILE`: the manifest's plan as processes on this machine.

FILE ─> MIIDeployment ─plan─> containers ─> LocalPlan ─supervise─> n × mii serve, mii-gateway
"""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mii.errors import MIIError
from mii.local import devices, manifest, plan, ports, state
from mii.local.devices import Gpu
from mii.local.follow import following
from mii.local.plan import LocalPlan, Ports
from mii.local.supervise import supervise
from mii.local.view import ForgivingConsole, TerminalView
from mii_operator.local import local_facts, local_refusals, unused_fields
from mii_operator.plan import Plan, PlanRefused
from mii_operator.plan import plan as plan_deployment
from mii_spec.errors import SpecError
from mii_spec.spec import MIIDeployment, parse


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "up",
        help="run a MIIDeployment manifest as local processes",
        description="Runs a MIIDeployment manifest on this machine: its replicas and its gateway as "
        "processes, restarted when they die, until Ctrl-C.",
    )
    parser.add_argument("-f", "--file", required=True, help="manifest; - is standard input")
    parser.add_argument("--host", default=plan.HOST, help="address of the gateway (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="its HTTP port (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, default=50050, help="its gRPC port (default: %(default)s)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what the processes log")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 after an orderly end; 1 when the deployment cannot run; 2 when the manifest is wrong."""
    try:
        deployment = parse(manifest.read(args.file))
    except SpecError as error:
        for problem in error.errors:
            print(f"{args.file}: {problem}", file=sys.stderr)
        return 2
    except MIIError as error:
        print(f"mii up: error: {error}", file=sys.stderr)
        return 2
    prepared = prepare(deployment, host=args.host, port=args.port, grpc_port=args.grpc_port)
    logs = state.log_dir(prepared.name)
    console = ForgivingConsole(soft_wrap=True)
    if unused := unused_fields(deployment):
        console.print(f"Without a cluster there is no use for {', '.join(unused)}.", highlight=False)
    followed = _logs_followed(console, prepared, logs) if args.verbose else nullcontext()
    with followed, TerminalView(console, prepared, logs=logs) as view:
        supervise(prepared, view)
    return 0


def prepare(deployment: MIIDeployment, *, host: str, port: int, grpc_port: int) -> LocalPlan:
    """The manifest's plan on this machine's ports and devices, its name claimed. Raises MIIError."""
    gpus = devices.visible_gpus()
    planned = _planned(deployment, gpus)  # first, so that what is wrong in the file is said on any machine
    ports.require(host, {"--port": port, "--grpc-port": grpc_port})
    gateway_ports = Ports(http=port, grpc=grpc_port, probe=ports.free(1)[0])
    prepared = local_plan(deployment, planned, gpus, host=host, gateway_ports=gateway_ports)
    state.prepare(prepared.name)
    return prepared


def local_plan(
    deployment: MIIDeployment, planned: Plan, gpus: list[Gpu], *, host: str, gateway_ports: Ports
) -> LocalPlan:
    """The planned containers as processes."""
    name, rollout = deployment.metadata.name, deployment.spec.rollout
    server = plan.container(planned.server)
    extra = _cpu_share(planned, server.args)
    numbers = ports.free(2 * planned.replicas)
    gpu_env = devices.share_gpus(gpus, replicas=planned.replicas, per_replica=planned.choice.gpus)
    replicas = [
        plan.replica(
            server,
            index=index,
            ports=Ports(http=numbers[2 * index], grpc=numbers[2 * index + 1], probe=numbers[2 * index]),
            env=gpu_env[index],
            extra=extra,
        )
        for index in range(planned.replicas)
    ]
    return LocalPlan(
        name=name,
        model=deployment.spec.model,
        served_name=deployment.spec.served_model_name,
        replicas=replicas,
        gateway=plan.gateway(
            plan.container(planned.gateway),
            host=host,
            ports=gateway_ports,
            replicas=replicas,
            extra=[f"--owner-token-file={state.token_file(name)}"],
        ),
        drain_timeout=rollout.drain_timeout.total_seconds(),
        startup_timeout=rollout.startup_timeout.total_seconds(),
    )


def _planned(deployment: MIIDeployment, gpus: list[Gpu]) -> Plan:
    """Raises MIIError naming every field that needs a cluster, or the reason why nothing can run."""
    if refusals := local_refusals(deployment, gpus=len(gpus), cores=devices.usable_cores()):
        raise MIIError("this manifest cannot run on this machine:\n  " + "\n  ".join(refusals))
    memories = [gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None]
    facts = local_facts(gpus=len(gpus), gpu_memory=min(memories, default=None))
    try:
        return plan_deployment(deployment, facts)
    except PlanRefused as error:
        raise MIIError(f"{error.reason}: {error}") from None


def _logs_followed(console: Console, prepared: LocalPlan, logs: Path) -> AbstractContextManager[None]:
    files = {child.name: logs / f"{child.name}.log" for child in (prepared.gateway, *prepared.replicas)}
    return following(
        files, lambda name, line: console.print(f"[dim]{name}[/] | {escape(line)}", highlight=False)
    )


def _cpu_share(planned: Plan, args: list[str]) -> list[str]:
    if planned.choice.gpus or not planned.replicas:
        return []
    return plan.cpu_threads(args, cores=devices.usable_cores(), replicas=planned.replicas)
