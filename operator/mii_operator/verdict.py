"""Whether a manifest is accepted, and what follows from it: the input of status, the output of planning."""

from dataclasses import dataclass

from mii_operator.plan import Plan
from mii_spec.reasons import Reason
from mii_spec.spec import MIIDeployment


@dataclass(frozen=True)
class Verdict:
    """`accepted` None: not known yet. Without a deployment not even the manifest could be read."""

    accepted: bool | None
    reason: Reason
    message: str
    deployment: MIIDeployment | None = None
    plan: Plan | None = None


def accept(deployment: MIIDeployment, plan: Plan) -> Verdict:
    return Verdict(True, "Planned", "; ".join(plan.choice.explanation), deployment, plan)


def refuse(reason: Reason, message: str, deployment: MIIDeployment | None = None) -> Verdict:
    return Verdict(False, reason, message, deployment)


def wait(reason: Reason, message: str, deployment: MIIDeployment) -> Verdict:
    return Verdict(None, reason, message, deployment)
