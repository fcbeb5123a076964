"""A client in a pod of its own: what a program in the cluster gets from a deployment's Service."""

import json
from pathlib import Path
from typing import Any

from . import pods
from .kube import kubectl

NAME = "client"


class Client:
    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def start(self) -> None:
        pods.start(self._namespace, NAME, "sleep", "infinity")

    def answers(self, deployment: str) -> dict[str, Any]:
        """Of `asks.py`, which the pod runs."""
        program = Path(__file__).with_name("asks.py").read_text()
        words = ("-n", self._namespace, "exec", "-i", NAME, "--", "python", "-", deployment)
        answers: dict[str, Any] = json.loads(kubectl(*words, text=program))
        return answers

    def end(self) -> None:
        kubectl("-n", self._namespace, "delete", "pod", NAME)
