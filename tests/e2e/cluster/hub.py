"""A hub in the cluster, for the operator to look models up on."""

import json
import uuid
from pathlib import Path

from . import pods
from .kube import kubectl, wait_for

NAME = "hub"
MODELS = {"three": 3, "private": 4}  # org/NAME to attention heads


class Hub:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.token = f"hf_{uuid.uuid4().hex}"  # for org/private; in the Secret `hub`, key `token`

    @property
    def url(self) -> str:
        return f"http://{NAME}.{self.namespace}.svc"

    def start(self) -> None:
        """Returns when it answers through its Service: one that does not is no reason to refuse a model."""
        made = ("create", "-n", self.namespace)
        kubectl(*made, "secret", "generic", NAME, f"--from-literal=token={self.token}")
        kubectl(*made, "service", "clusterip", NAME, "--tcp=80:8000")
        program = Path(__file__).with_name("hub_server.py").read_text()
        files = {name: json.dumps(_config(heads)) for name, heads in MODELS.items()}
        data = {"hub_server.py": program, **files}
        metadata = {"name": NAME, "namespace": self.namespace}
        models = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        kubectl("apply", "-f", "-", manifest=models)
        volumes = (
            {"name": "models", "configMap": {"name": NAME}},
            {"name": "secret", "secret": {"secretName": NAME}},
        )
        command = ("python", "/models/hub_server.py", "/models", "/secret/token")
        pods.start(self.namespace, NAME, *command, volumes=volumes, readinessProbe=_ANSWERS)
        wait_for(self._answers, "the hub answers through its Service")

    def _answers(self) -> bool:
        ask = f"import urllib.request as r; print(r.urlopen('{self.url}{_CONFIG}', timeout=5).status)"
        said = kubectl("exec", "-n", self.namespace, NAME, "--", "python", "-c", ask, check=False)
        return said == "200"


_CONFIG = "/org/three/resolve/main/config.json"
_ANSWERS = {"httpGet": {"path": _CONFIG, "port": 8000}, "periodSeconds": 1}


def _config(heads: int) -> dict[str, int]:
    return {"num_attention_heads": heads, "hidden_size": heads * 64, "num_hidden_layers": 2}
