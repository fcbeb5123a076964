"""What there is to say about one deployment, from its objects as the API server gives them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from mii.cluster import pods, usage
from mii.cluster.events import EventLine, newest
from mii.cluster.pods import PodLine
from mii.cluster.times import age
from mii_spec.reasons import MEANINGS, Meaning, Reason

Object = Mapping[str, Any]

# From cause to effect. Ready, which sums them up, is the headline.
ORDER = ("Accepted", "ModelCached", "Scheduled", "Progressing", "Available", "GatewayReady")

_LOOK = "kubectl get deployment -A -l app.kubernetes.io/name=mii-operator"
UNOBSERVED = Meaning(
    "No operator has taken it up.",
    f"Check that one runs, and that its watchNamespaces has this namespace: {_LOOK}.",
)
OUTDATED = Meaning(
    "The operator has not taken up the newest change; what follows is of the one before.",
    f"Wait some seconds. If it lasts, the operator is down: {_LOOK}.",
)
TERMINATING = Meaning("It is being deleted, and what it owns with it.")


@dataclass(frozen=True)
class ConditionLine:
    """`status` is True (good), False or Unknown; `words` and `advice` are the reason's."""

    type: str
    status: str
    reason: str
    since: str
    words: str
    message: str
    advice: str


@dataclass(frozen=True)
class Summary:
    """A row of the table. `ready` is whether everything is as the newest manifest says."""

    namespace: str
    name: str
    model: str
    tensor_parallel: int | None
    replicas: str  # ready and wanted, "2/2"
    ready: bool
    reason: str
    age: str


@dataclass(frozen=True)
class Report:
    summary: Summary
    verdict: ConditionLine  # the headline
    facts: list[str]  # what it is
    conditions: list[ConditionLine]
    engine: dict[str, Any]
    pods: list[PodLine]
    events: list[EventLine]
    url: str  # of the gateway in the cluster
    grpc: str
    usage: list[str]  # lines for a shell; none while no gateway answers
    notes: list[str] = field(default_factory=list)  # what could not be read


def summary(resource: Object, now: datetime) -> Summary:
    metadata, status = resource["metadata"], resource.get("status") or {}
    headline = verdict(resource, now)
    return Summary(
        namespace=metadata["namespace"],
        name=metadata["name"],
        model=resource["spec"]["model"],
        tensor_parallel=(status.get("engine") or {}).get("tensorParallel"),
        replicas=status.get("summary") or "",
        ready=headline.status == "True",
        reason=headline.reason,
        age=age(metadata.get("creationTimestamp"), now),
    )


def verdict(resource: Object, now: datetime) -> ConditionLine:
    """The condition Ready, unless it is not about the resource as it is now."""
    metadata, status = resource["metadata"], resource.get("status") or {}
    ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), None)
    if metadata.get("deletionTimestamp"):
        return _made_up("Terminating", TERMINATING, metadata["deletionTimestamp"], now)
    if ready is None:
        return _made_up("Unobserved", UNOBSERVED, metadata.get("creationTimestamp"), now)
    if status.get("observedGeneration", 0) < metadata.get("generation", 0):
        return _made_up("Outdated", OUTDATED, None, now)
    return _condition(ready, now)


def report(
    resource: Object, children: Sequence[Object], events: Sequence[Object], now: datetime, *, kubectl: str
) -> Report:
    """`children` are labelled as the resource's, `kubectl` is the command as the user reaches the cluster."""
    found = {c["type"]: c for c in (resource.get("status") or {}).get("conditions") or ()}
    ours = {resource["metadata"].get("uid"), *(child["metadata"].get("uid") for child in children)}
    return Report(
        summary=summary(resource, now),
        verdict=verdict(resource, now),
        facts=_facts(resource, children),
        conditions=[_condition(found[kind], now) for kind in _telling(found, children)],
        engine=dict((resource.get("status") or {}).get("engine") or {}),
        pods=[pods.line(child, now) for child in _sorted(children) if child["kind"] == "Pod"],
        events=newest([e for e in events if e["involvedObject"].get("uid") in ours], now),
        url=(resource.get("status") or {}).get("url") or "",
        grpc="{name}.{namespace}.svc:50050".format(**resource["metadata"]),
        usage=usage.commands(resource, kubectl) if _answers(found) else [],
    )


def _telling(conditions: Mapping[str, Object], children: Sequence[Object]) -> list[str]:
    """The conditions that say something: of what was refused before anything existed, only the refusal."""
    refused = conditions.get("Accepted", {}).get("status") == "False"
    nothing = not any(child["kind"] == "Pod" for child in children)
    return [kind for kind in ORDER if kind in conditions and not (refused and nothing and kind != "Accepted")]


def _answers(conditions: Mapping[str, Object]) -> bool:
    return conditions.get("GatewayReady", {}).get("status") == "True"


def _condition(condition: Object, now: datetime) -> ConditionLine:
    """Of a reason that a newer operator has given, its message alone."""
    words, advice = MEANINGS.get(cast(Reason, condition["reason"]), Meaning(""))
    return ConditionLine(
        type=condition["type"],
        status=condition["status"],
        reason=condition["reason"],
        since=age(condition.get("lastTransitionTime"), now),
        words=words,
        message=condition.get("message", ""),
        advice=advice,
    )


def _made_up(reason: str, meaning: Meaning, since: str | None, now: datetime) -> ConditionLine:
    return ConditionLine("Ready", "False", reason, age(since, now), meaning.words, "", meaning.advice)


def _facts(resource: Object, children: Sequence[Object]) -> list[str]:
    spec, status = resource["spec"], resource.get("status") or {}
    revision = spec.get("revision", "main")
    model = spec["model"] if revision == "main" else f"{spec['model']} at {revision}"
    ready = f"{status['summary']} replicas ready" if status.get("summary") else "no replicas yet"
    return [part for part in (model, ready, _width(spec, status), _scaling(spec, children)) if part]


def _width(spec: Object, status: Object) -> str:
    """GPUs of a replica as far as they are known: one that is planned may turn out to be the CPU."""
    engine = status.get("engine") or {}
    width, device, asked = engine.get("tensorParallel"), engine.get("device"), spec.get("gpus", "auto")
    if device == "cpu" or asked == 0:
        return "on the CPU"
    if not width or (width == 1 and not device and asked == "auto"):
        return ""
    return f"{width} GPU{'s' * (width > 1)} each"


def _scaling(spec: Object, children: Sequence[Object]) -> str:
    scaling = spec.get("autoscaling")
    if not scaling:
        return ""
    by = "a HorizontalPodAutoscaler" if scaling.get("by") == "hpa" else "the operator"
    hpa = next((child for child in children if child["kind"] == "HorizontalPodAutoscaler"), {})
    stuck = [
        f": {c.get('message', '')}"
        for c in (hpa.get("status") or {}).get("conditions") or ()
        if c["type"] in ("AbleToScale", "ScalingActive") and c["status"] == "False"
    ]
    return f"scaled between {scaling['min']} and {scaling['max']} by {by}{''.join(stuck[:1])}"


def _sorted(children: Sequence[Object]) -> list[Object]:
    """Servers first, then by age."""
    labels = ("server", "fetch", "gateway")

    def key(child: Object) -> tuple[int, str]:
        component = (child["metadata"].get("labels") or {}).get(pods.COMPONENT, "")
        rank = labels.index(component) if component in labels else len(labels)
        return rank, child["metadata"].get("creationTimestamp", "")

    return sorted(children, key=key)
