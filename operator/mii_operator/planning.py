"""From a resource and what was observed to a verdict: a plan, or the reason why there is none. Pure."""

from collections.abc import Mapping
from typing import Any

from mii_operator import constants, settle, verdict
from mii_operator.facts import Capabilities, Cluster, Facts, Images
from mii_operator.model_source import Found
from mii_operator.observe import Observed, running_gpus
from mii_operator.plan import Plan, PlanRefused, plan
from mii_operator.verdict import Verdict
from mii_spec.sizing import GpuFacts
from mii_spec.spec import MIIDeployment, parse


def decide(
    deployment: MIIDeployment, observed: Observed, model: Found, images: Images, offered: Capabilities
) -> Verdict:
    """Accepted with a plan, refused, or waiting for facts that the width hangs on."""
    accelerator = deployment.spec.accelerator
    gpu = observed.gpu(accelerator)
    running = running_gpus(observed.deployment(deployment, constants.SERVER), accelerator.resource)
    settled = settle.width(deployment, running, known=model.reachable and gpu is not None)
    if not model.reachable and _needs_facts(settled, gpu):
        hint = "set spec.gpus to go on without"
        return verdict.wait("ModelUnreachable", f"{model.problem}; {hint}", deployment)
    cluster = Cluster(
        images,
        offered,
        free_gpus=observed.free_gpus(accelerator),
        cache_access_modes=observed.cache_access_modes(deployment),
    )
    try:
        made = plan(settled, Facts(model=model.facts, gpu=gpu, cluster=cluster))
    except PlanRefused as refused:
        return verdict.refuse(refused.reason, str(refused), deployment)
    return verdict.accept(deployment, _settle(deployment, observed, made))


def stand_in(resource: Mapping[str, Any]) -> MIIDeployment:
    """For a manifest that cannot be read: enough to see what an earlier one has left. Raises SpecError."""
    return parse({**resource, "spec": {"model": "unknown"}})


def _needs_facts(deployment: MIIDeployment, gpu: GpuFacts | None) -> bool:
    spec = deployment.spec
    return gpu is not None and spec.gpus == "auto" and spec.tensor_parallel == "auto"


def _settle(deployment: MIIDeployment, observed: Observed, made: Plan) -> Plan:
    """With the rollout strategy that a running rollout goes by, unless the manifest names one."""
    if deployment.spec.rollout.strategy != "auto":
        return made
    live = observed.deployment(deployment, constants.SERVER)
    pods = observed.pods(constants.SERVER)
    children = [settle.strategy(item, live, pods) if is_server(item) else item for item in made.children]
    return Plan(tuple(children), made.server, made.gateway, made.replicas, made.choice)


def is_server(item: Mapping[str, Any]) -> bool:
    component: str = item["metadata"]["labels"]["app.kubernetes.io/component"]
    return item["kind"] == "Deployment" and component == constants.SERVER
