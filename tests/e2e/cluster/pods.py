"""Pods of the tests' own, in an image that the nodes have, under the restricted Pod Security Standard."""

from typing import Any

from .kube import Object, kubectl
from .release import TAG

IMAGE = {"image": f"localhost/mii-smollm2:{TAG}", "imagePullPolicy": "IfNotPresent"}
_POD = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def start(
    namespace: str, name: str, *command: str, volumes: tuple[Object, ...] = (), **container: Any
) -> None:
    """Runs the command; each volume is mounted at /NAME. Returns when the pod is ready."""
    mounts = [{"name": v["name"], "mountPath": f"/{v['name']}", "readOnly": True} for v in volumes]
    main = {"name": "main", **IMAGE, "command": list(command), "securityContext": _CONTAINER}
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": _POD,
        "containers": [{**main, "volumeMounts": mounts, **container}],
        "volumes": list(volumes),
    }
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    kubectl("apply", "-f", "-", manifest=pod)
    kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, "--timeout=300s")
