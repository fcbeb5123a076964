"""A MIIDeployment of the tests, and what the operator has made of it."""

import json
import socket
import uuid
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
        found = self.get("mii", self.name)
        spec = found["spec"]
        ready = self.conditions().get("Ready", {})
        return (
            found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
            and ready.get("status") == "True"
            and self._rolled("server", spec.get("replicas", 1))
            and self._rolled("gateway", spec.get("gateway", {}).get("replicas", 1))
        )

    def conditions(self) -> dict[str, Object]:
        """By type."""
        status = self.get("mii", self.name).get("status", {})
        return {condition["type"]: condition for condition in status.get("conditions", ())}

    def condition(self, kind: str, reason: str, seconds: float = SECONDS) -> Object:
        """Waits until the condition has that reason."""

        def found() -> Object | None:
            condition = self.conditions().get(kind, {})
            return condition if condition.get("reason") == reason else None

        made: Object = wait_for(found, f"{self.name}'s {kind} is {reason}", seconds)
        return made

    def _rolled(self, component: str, replicas: int) -> bool:
        deployment = self.get("deployment", f"{self.name}-{component}")
        status = deployment["status"]
        counts = {status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")}
        return (
            status.get("observedGeneration") == deployment["metadata"]["generation"]
            and counts == {deployment["spec"]["replicas"]} == {replicas}
            and len(self.pods(component)) == replicas
        )

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
