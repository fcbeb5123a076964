"""A MIIDeployment of the tests, and what the operator has made of it."""

import json
import socket
import uuid
from collections import Counter
from typing import Any

import pytest

from .endpoint import Address
from .kube import SECONDS, Object, kubectl, wait_for


class Deployment:
    """The MIIDeployment of that name in a namespace."""

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace = namespace
        self.name = name

    def kubectl(self, *args: str, manifest: Object | None = None, check: bool = True) -> str:
        return kubectl("-n", self.namespace, *args, manifest=manifest, check=check)

    def get(self, kind: str, *args: str) -> Any:
        return json.loads(self.kubectl("get", kind, *args, "-o", "json"))

    def apply(self, **spec: Any) -> None:
        metadata = {"name": self.name}
        document = {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": metadata}
        self.kubectl("apply", "-f", "-", manifest={**document, "spec": spec})

    def change(self, **spec: Any) -> None:
        """Merges into the spec, and waits until it runs as changed and nothing of the old is left."""
        self.kubectl("patch", "mii", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))
        self.wait()

    def wait(self) -> None:
        """Until everything is as the spec says, and no pod is on its way out."""
        wait_for(self.settled, f"{self.name} is as its spec says")

    def settled(self) -> bool:
        """By one command: the machine that waits for this is often the one that it is to happen on."""
        items = self.get("mii,deployments,pods")["items"]
        found = {(item["kind"], item["metadata"]["name"]): item for item in items}
        resource = found["MIIDeployment", self.name]
        spec = resource["spec"]
        wanted = {"server": spec.get("replicas", 1), "gateway": spec.get("gateway", {}).get("replicas", 1)}
        pods = Counter(map(self._component, items))
        return (
            resource.get("status", {}).get("observedGeneration") == resource["metadata"]["generation"]
            and _conditions(resource).get("Ready", {}).get("status") == "True"
            and all(
                pods[component] == replicas
                and _rolled(found["Deployment", f"{self.name}-{component}"], replicas)
                for component, replicas in wanted.items()
            )
        )

    def _component(self, item: Object) -> str:
        """Of what is one of its pods; else nothing."""
        labels = item["metadata"].get("labels", {})
        ours = item["kind"] == "Pod" and labels.get("app.kubernetes.io/instance") == self.name
        return str(labels["app.kubernetes.io/component"]) if ours else ""

    def conditions(self) -> dict[str, Object]:
        """By type."""
        return _conditions(self.get("mii", self.name))

    def condition(self, kind: str, reason: str, seconds: float = SECONDS) -> Object:
        """Waits until the condition has that reason."""

        def found() -> Object | None:
            condition = self.conditions().get(kind, {})
            return condition if condition.get("reason") == reason else None

        made: Object = wait_for(found, f"{self.name}'s {kind} is {reason}", seconds)
        return made

    def pods(self, *components: str) -> list[Object]:
        """Those that are going included."""
        label = f"app.kubernetes.io/component in ({','.join(components)})"
        found = self.get("pods", "-l", f"app.kubernetes.io/instance={self.name},{label}")
        items: list[Object] = found["items"]
        return items

    def names(self, *components: str) -> set[str]:
        """Of its pods."""
        return {pod["metadata"]["name"] for pod in self.pods(*components)}

    def write_secret(self, name: str, data: dict[str, str]) -> None:
        """Anew, and has the kubelets look at once, which they otherwise do every minute."""
        secret = {**self.get("secret", name), "data": {}, "stringData": data}
        self.kubectl("replace", "-f", "-", manifest=secret)
        for pod in self.names("gateway"):
            self.kubectl("annotate", "pod", pod, "--overwrite", f"mii.dev/looked={uuid.uuid4().hex}")

    def address(self) -> Address:
        """Of the Service. Skips where this machine has no way to it."""
        service = self.get("service", self.name)["spec"]
        host = service["clusterIP"]
        ports = {port["name"]: port["port"] for port in service["ports"]}
        try:
            socket.create_connection((host, ports["grpc"]), timeout=5).close()
        except OSError as error:
            pytest.skip(f"Services cannot be reached from here: {error}")
        return Address(host, ports["http"], ports["grpc"])


def _conditions(resource: Object) -> dict[str, Object]:
    return {condition["type"]: condition for condition in resource.get("status", {}).get("conditions", ())}


def _rolled(deployment: Object, replicas: int) -> bool:
    status = deployment["status"]
    counts = {status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")}
    return status.get("observedGeneration") == deployment["metadata"]["generation"] and counts == {
        deployment["spec"]["replicas"]
    } == {replicas}
