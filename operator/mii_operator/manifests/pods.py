"""What the pods of both components have in common: hardening, probes, drain."""

from math import ceil
from typing import Any

from mii_operator import constants
from mii_operator.facts import Cluster
from mii_operator.manifests.meta import Manifest, component_name, labels, selector
from mii_spec.spec import MIIDeployment

TEMPORARY = {"name": "tmp", "emptyDir": {}}
TEMPORARY_MOUNT = {"name": "tmp", "mountPath": "/tmp"}


def pod_template(deployment: MIIDeployment, cluster: Cluster, component: str, **spec: Any) -> Manifest:
    """A pod template of this component; `spec` are the pod's own fields."""
    hosts = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(deployment, component)},
    }
    common: Manifest = {
        "serviceAccountName": component_name(deployment, component),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(deployment, component),
        "securityContext": security_context(),
        "topologySpreadConstraints": [hosts],
    }
    if cluster.images.pull_secrets:
        common["imagePullSecrets"] = [{"name": name} for name in cluster.images.pull_secrets]
    return {"metadata": {"labels": labels(deployment, component)}, "spec": {**common, **spec}}


def security_context() -> Manifest:
    """Of a pod, as the restricted Pod Security Standard asks; the group owns mounted volumes."""
    return {
        "runAsNonRoot": True,
        "runAsUser": constants.USER_ID,
        "runAsGroup": constants.USER_ID,
        "fsGroup": constants.USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def hardened() -> Manifest:
    """Of a container, as the restricted Pod Security Standard asks."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def image(name: str, cluster: Cluster) -> Manifest:
    return {"image": name, "imagePullPolicy": cluster.images.pull_policy}


def ports(**numbers: int) -> list[Manifest]:
    """With the protocol, as server-side apply of older API servers takes no default for a list's key."""
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in numbers.items()]


def probe(path: str, *, port: str, period: int, timeout: int, failures: int) -> Manifest:
    """Times in seconds. HTTP, as gRPC probes are newer than the oldest API server that is served."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def lifecycle(component: str) -> Manifest:
    """SIGTERM comes only when nobody sends new requests any more."""
    return {"preStop": {"exec": {"command": ["sleep", str(constants.LEAVING_SECONDS[component])]}}}


def grace_seconds(deployment: MIIDeployment, component: str) -> int:
    """From a pod's deletion to its SIGKILL: clients leave, it drains, it exits."""
    drain = ceil(deployment.spec.rollout.drain_timeout.total_seconds())
    return constants.LEAVING_SECONDS[component] + drain + constants.EXIT_SECONDS
