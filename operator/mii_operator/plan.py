"""From a manifest and facts to everything that should exist. Pure.

    MIIDeployment ─┐
    model facts    ├─ sizing ─> Choice ─> container commands ─> children, in the order to apply them
    GPU facts      │
    cluster facts ─┘

The operator applies `children`; `mii up` runs the same containers as processes.
"""

from dataclasses import dataclass
from typing import Any

from mii_operator.commands import gateway_container, server_container
from mii_operator.facts import Capabilities, Facts
from mii_operator.manifests import children, gateway_deployment, server_deployment
from mii_spec import sizing
from mii_spec.reasons import Reason
from mii_spec.sizing import Choice
from mii_spec.spec import MIIDeployment, Spec


@dataclass(frozen=True)
class Plan:
    """`server` and `gateway` are container specs with at least name, command, args and env."""

    children: tuple[dict[str, Any], ...]  # Kubernetes objects in apply order; empty without a cluster
    server: dict[str, Any]
    gateway: dict[str, Any]
    replicas: int  # of the server; with autoscaling, the least
    choice: Choice


class PlanRefused(Exception):  # noqa: N818 - reads as what it is at the raise
    """There is no way to run this manifest here. `reason` is the condition's reason, the message says why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def plan(deployment: MIIDeployment, facts: Facts) -> Plan:
    """Raises PlanRefused: no tensor-parallel width serves the model, or the cluster lacks what is asked for.

    Same input, same plan.
    """
    choice = choose(deployment.spec, facts)
    server = server_container(deployment, choice)
    gateway = gateway_container(deployment, cluster=facts.cluster is not None)
    if facts.cluster is None:
        return Plan((), server, gateway, replicas(deployment.spec), choice)
    _check_autoscaler(deployment.spec, facts.cluster.capabilities)
    server = server_deployment.container(deployment, facts.cluster, choice, server)
    gateway = gateway_deployment.container(deployment, facts.cluster, gateway)
    objects = children(deployment, facts.cluster, choice, server=server, gateway=gateway)
    return Plan(objects, server, gateway, replicas(deployment.spec), choice)


def choose(spec: Spec, facts: Facts) -> Choice:
    """The width for these facts. Raises PlanRefused."""
    engine = spec.engine
    model = facts.model.cast(engine.dtype).quantised(engine.quantization) if facts.model else None
    choice = sizing.choose(model, facts.gpu, request(spec))
    if isinstance(choice, sizing.Refusal):
        raise PlanRefused(choice.reason, choice.message)
    return choice


def _check_autoscaler(spec: Spec, offered: Capabilities) -> None:
    if spec.autoscaling and spec.autoscaling.by == "hpa" and not offered.autoscaler:
        needs = "needs autoscaling/v2 (Kubernetes 1.23), which this API server lacks; operator needs nothing"
        raise PlanRefused("UnsupportedByServer", f"spec.autoscaling.by: hpa {needs}")


def request(spec: Spec) -> sizing.Request:
    """What the manifest asks of sizing."""
    return sizing.Request(
        gpus=None if spec.gpus == "auto" else spec.gpus,
        tensor_parallel=None if spec.tensor_parallel == "auto" else spec.tensor_parallel,
        kv_memory_fraction=spec.engine.kv_memory_fraction,
        max_model_len=None if spec.engine.max_model_len == "auto" else spec.engine.max_model_len,
    )


def replicas(spec: Spec) -> int:
    return spec.autoscaling.min if spec.autoscaling else spec.replicas
