"""What a running server Deployment has a say in, so that passing circumstances do not replace it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from mii_operator.diff import holds
from mii_operator.kube import Object
from mii_operator.pods import unscheduled
from mii_spec.spec import MIIDeployment


def width(deployment: MIIDeployment, running: int | None, *, known: bool) -> MIIDeployment:
    """With `gpus` as they run (`running` per replica), where facts that chose them are out of reach now.

    A hub that does not answer, or GPU nodes that have gone, must not replace what serves by another width.
    """
    spec = deployment.spec
    if known or running is None or spec.gpus != "auto" or spec.tensor_parallel != "auto":
        return deployment
    return deployment.model_copy(update={"spec": spec.model_copy(update={"gpus": running})})


def strategy(desired: Object, live: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]) -> Object:
    """`desired` with the strategy that it has, unless a rollout is about to start or hangs.

    Free GPUs come and go by the minute, and a rollout that surges takes the very GPUs that allowed it: the
    choice is made once per rollout, and again when the spare finds no node after all.
    """
    if live is None or not holds(live["spec"]["template"], desired["spec"]["template"]):
        return desired
    if rolling(live) and unscheduled(pods):
        return desired
    return {**desired, "spec": {**desired["spec"], "strategy": _strategy(live)}}


def rolling(live: Mapping[str, Any]) -> bool:
    """Whether the Deployment's controller is still replacing pods."""
    status = live.get("status", {})
    behind: bool = status.get("observedGeneration", 0) < live["metadata"].get("generation", 0)
    return behind or status.get("updatedReplicas", 0) < status.get("replicas", 0)


def _strategy(live: Mapping[str, Any]) -> Object:
    """Without what the server may add."""
    found = live["spec"]["strategy"]
    return {k: found[k] for k in ("type", "rollingUpdate") if k in found}
