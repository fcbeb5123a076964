"""The status of a deployment and the events that tell of its changes. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from mii_operator import constants
from mii_operator.conditions import View, conditions, ready
from mii_operator.judgement import Judgement
from mii_operator.manifests.meta import selector
from mii_operator.verdict import Verdict
from mii_spec.spec import MIIDeployment
from mii_spec.status import Condition, EngineStatus, Status

_TROUBLE = ("Scheduled", "Progressing", "ModelCached")  # conditions that are False only if something is wrong
_LONGEST = 4096  # characters of a message


class Transition(NamedTuple):
    """What an event says."""

    kind: str  # Normal or Warning
    reason: str
    message: str


def build(
    resource: Mapping[str, Any],
    verdict: Verdict,
    view: View | None,
    engine: Mapping[str, Any] | None,
    now: datetime,
) -> dict[str, Any]:
    """As the API server takes it; what is not known is None. `engine` is /v1/info of a ready replica.

    Without a view, as nothing is accepted, only the conditions and the generation change.
    """
    accepted = Judgement(_status(verdict.accepted), verdict.reason, verdict.message)
    others = conditions(view) if view else {}
    judged = {"Ready": ready(accepted, others, view), "Accepted": accepted, **others}
    old = resource.get("status") or {}
    generation = resource["metadata"]["generation"]
    dated = [_date(name, judged[name], old.get("conditions", ()), generation, now) for name in judged]
    status = Status(observed_generation=generation, conditions=tuple(dated), **_numbers(view, engine))
    return status.model_dump(by_alias=True, exclude_unset=True)


def differs(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Whether writing `new` would change anything. Fields that it does not mention stay as they are."""
    return bool(_without_none({key: (old or {}).get(key) for key in new}) != _without_none(new))


def transitions(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[Transition]:
    """What is news to people: changes of Accepted and Ready, and what went wrong elsewhere. Each once."""
    before = {c["type"]: (c["status"], c["reason"]) for c in (old or {}).get("conditions", ())}
    told, found = set(), []
    for condition in sorted(new["conditions"], key=lambda c: c["type"] == "Ready"):
        state = (condition["status"], condition["reason"])
        if before.get(condition["type"]) == state or condition["reason"] in told or not _is_news(condition):
            continue
        told.add(condition["reason"])
        kind = "Warning" if state[0] == "False" and condition["type"] in (*_TROUBLE, "Accepted") else "Normal"
        found.append(Transition(kind, condition["reason"], condition.get("message") or condition["type"]))
    return found


def _is_news(condition: Mapping[str, Any]) -> bool:
    name, status = condition["type"], condition["status"]
    good_news = name == "Ready" and status == "True"
    return good_news or name == "Accepted" or (name in _TROUBLE and status == "False")


def url(deployment: MIIDeployment) -> str:
    host = f"{deployment.metadata.name}.{deployment.metadata.namespace}.svc"
    port = constants.SERVICE_HTTP_PORT
    return f"https://{host}:{port}" if deployment.spec.gateway.tls_secret_ref else f"http://{host}"


def _numbers(view: View | None, engine: Mapping[str, Any] | None) -> dict[str, Any]:
    if view is None:
        return {}
    labels = selector(view.deployment, constants.SERVER)
    return {
        "url": url(view.deployment),
        "replicas": view.count("replicas"),
        "ready_replicas": view.count("readyReplicas"),
        "updated_replicas": view.count("updatedReplicas"),
        "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
        "summary": f"{view.count('readyReplicas')}/{view.wanted}",
        "engine": _engine(view, engine),
    }


def _engine(view: View, info: Mapping[str, Any] | None) -> EngineStatus:
    """Planned until a replica tells."""
    plan = view.verdict.plan
    found = info or {}
    return EngineStatus(
        tensor_parallel=found.get("tensor_parallel", plan.choice.tensor_parallel if plan else None),
        device=found.get("device"),
        kv_blocks=found.get("kv_blocks"),
        max_model_len=found.get("max_model_len"),
        revision=found.get("revision") or None,
        load_seconds=found.get("load_seconds"),
    )


def _date(
    name: Any, judged: Judgement, old: Sequence[Mapping[str, Any]], generation: int, now: datetime
) -> Condition:
    """With the time of the change from the old condition, if it has not changed since."""
    before = next((c for c in old if c["type"] == name), None)
    unchanged = before is not None and before["status"] == judged.status
    since = before["lastTransitionTime"] if before and unchanged else now.strftime("%Y-%m-%dT%H:%M:%SZ")
    # An empty text is left out: Kubernetes 1.20 takes it for null, and refuses it.
    message = {"message": judged.message[:_LONGEST]} if judged.message else {}
    return Condition(
        type=name,
        status=judged.status,
        reason=judged.reason,
        last_transition_time=since,
        observed_generation=generation,
        **message,
    )


def _status(accepted: bool | None) -> Any:
    return {True: "True", False: "False", None: "Unknown"}[accepted]


def _without_none(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_none(value) for key, value in node.items() if value is not None}
    return [_without_none(item) for item in node] if isinstance(node, list | tuple) else node


def event(resource: Mapping[str, Any], transition: Transition, now: datetime) -> dict[str, Any]:
    """A core/v1 Event about the resource, as `kubectl describe` shows it."""
    metadata, time = resource["metadata"], now.strftime("%Y-%m-%dT%H:%M:%SZ")
    involved = {key: resource[key] for key in ("apiVersion", "kind")}
    involved |= {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
        "involvedObject": involved,
        "type": transition.kind,
        "reason": transition.reason,
        "message": transition.message[:1000],
        "source": {"component": constants.MANAGED_BY},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
