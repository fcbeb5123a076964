"""The conditions of a deployment's status, each derived afresh from what exists. Pure.

True is always good. `Ready` sums the others up: it takes over the
reason of the first that is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mii_operator import constants, pods, prefetch, settle
from mii_operator.judgement import Judgement
from mii_operator.observe import Observed
from mii_operator.pods import Problem
from mii_operator.verdict import Verdict
from mii_spec.reasons import Reason
from mii_spec.spec import MIIDeployment


@dataclass(frozen=True)
class View:
    """One accepted deployment as it is now."""

    deployment: MIIDeployment
    verdict: Verdict
    observed: Observed
    progress: prefetch.Progress | None  # of the prefetch Job, where there is one
    now: datetime

    @property
    def server(self) -> Mapping[str, Any]:
        return self.observed.deployment(self.deployment, constants.SERVER) or {}

    @property
    def wanted(self) -> int:
        live = self.server.get("spec", {}).get("replicas")
        planned = self.verdict.plan.replicas if self.verdict.plan else self.deployment.spec.replicas
        return int(planned if live is None else live)

    def count(self, field: str) -> int:
        return int(self.server.get("status", {}).get(field, 0))

    @property
    def trouble(self) -> Problem | None:
        """Of the servers' pods."""
        servers = self.observed.pods(constants.SERVER)
        startup = self.deployment.spec.rollout.startup_timeout
        return pods.problem(servers, now=self.now, startup=startup) or failure(self.server)


def conditions(view: View) -> dict[str, Judgement]:
    """All but Accepted and Ready. What was refused may still have replicas of an earlier manifest."""
    found = {
        "Available": available(view),
        "Progressing": progressing(view),
        "Scheduled": scheduled(view),
        "GatewayReady": gateway_ready(view),
    }
    if view.verdict.plan:
        loaded = view.count("readyReplicas") > 0
        found["ModelCached"] = prefetch.judge(view.deployment, view.progress, loaded=loaded)
    return found


def available(view: View) -> Judgement:
    ready = view.count("readyReplicas")
    if view.wanted == 0:
        return Judgement("False", "ScaledToZero", "no replica is wanted")
    if ready == 0:
        problem = view.trouble
        return Judgement("False", *((problem.reason, problem.message) if problem else ("NoReplicaReady", "")))
    return Judgement("True", "ReplicasReady", f"{ready} of {view.wanted} replicas are ready")


def progressing(view: View) -> Judgement:
    """True while replicas are on their way or have arrived, False when that is stuck."""
    if problem := view.trouble:
        return Judgement("False", problem.reason, problem.message)
    if not view.server:
        verdict = view.verdict
        if verdict.plan is None:
            return Judgement("False", verdict.reason, verdict.message)
        return Judgement("True", "Creating", "the servers are about to be created")
    if settle.rolling(view.server):
        return _rolling(view)
    if view.count("readyReplicas") < view.wanted:
        return Judgement("True", "Starting", f"{view.count('readyReplicas')} of {view.wanted} are ready")
    return Judgement("True", "Complete")


def _rolling(view: View) -> Judgement:
    """`updatedReplicas` of how many are there is what `kubectl rollout status` shows."""
    done = f"{view.count('updatedReplicas')} of {view.wanted} replicas are of the new version"
    surge = view.server["spec"]["strategy"].get("rollingUpdate", {}).get("maxSurge", 0)
    if surge == 0 and view.deployment.spec.rollout.strategy == "auto":
        return Judgement("True", "RollingWithoutSurge", f"{done}; no GPUs are free for a spare one")
    return Judgement("True", "Rolling", done)


def scheduled(view: View) -> Judgement:
    if view.wanted == 0:
        return Judgement("True", "ScaledToZero", "no replica is wanted")
    servers = view.observed.pods(constants.SERVER)
    words = pods.unscheduled(servers)
    if words is not None:
        return Judgement("False", _scheduling_reason(view, words), words)
    if not servers:
        return Judgement("Unknown", "NoPods", "no replica has been created yet")
    return Judgement("True", "AllScheduled")


def _scheduling_reason(view: View, words: str) -> Reason:
    """GPUs are lacking if the scheduler says so, or has no node of the product that was asked for."""
    accelerator = view.deployment.spec.accelerator
    gpus = view.verdict.plan.choice.gpus if view.verdict.plan else 0
    lacking = accelerator.resource in words or (accelerator.product and "node selector" in words)
    return "WaitingForGPU" if gpus and lacking else "Unschedulable"


def gateway_ready(view: View) -> Judgement:
    found = view.observed.deployment(view.deployment, constants.GATEWAY)
    if found and found.get("status", {}).get("readyReplicas", 0):
        return Judgement("True", "GatewayReady")
    gateways = view.observed.pods(constants.GATEWAY)
    startup = view.deployment.spec.rollout.startup_timeout
    problem = pods.problem(gateways, now=view.now, startup=startup) or failure(found or {})
    if problem:
        return Judgement("False", problem.reason, problem.message)
    if words := pods.unscheduled(gateways):
        return Judgement("False", "Unschedulable", words)
    return Judgement("False", "GatewayStarting", "no gateway is ready yet")


def failure(deployment: Mapping[str, Any]) -> Problem | None:
    """Why pods cannot even be created: quota, admission, a missing account."""
    found = deployment.get("status", {}).get("conditions", ())
    failed = next((c for c in found if c["type"] == "ReplicaFailure" and c["status"] == "True"), None)
    return Problem("PodsRefused", failed.get("message", "")) if failed else None


def ready(accepted: Judgement, others: Mapping[str, Judgement], view: View | None) -> Judgement:
    """The worst first: what is refused, what waits for a node, what is stuck, what is on its way."""
    if accepted.status != "True" or view is None:
        return Judgement("False", accepted.reason, accepted.message)
    order = ("ModelCached", "Scheduled", "Progressing", "Available", "GatewayReady")
    zero = view.wanted == 0
    for name in order:
        found = others[name]
        if found.status == "False" and not (zero and name == "Available"):
            return Judgement("False", found.reason, found.message)
    if zero:
        return Judgement("True", "ScaledToZero", "starts when it is asked for")
    progress = others["Progressing"]
    if not view.server or settle.rolling(view.server) or view.count("readyReplicas") < view.wanted:
        return Judgement("False", progress.reason, progress.message)
    return Judgement("True", "Ready", f"{view.count('readyReplicas')} of {view.wanted} replicas are ready")
