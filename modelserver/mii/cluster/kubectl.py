"""The user's own kubectl as a process: it has the kubeconfig and its log-ins. Runs nowhere else."""

import json
import re
import subprocess
from collections.abc import Mapping
from typing import Any

from mii.errors import MIIError

RESOURCE = "miideployments.mii.dev"
INSTALL = "helm install mii charts/mii-operator --namespace mii-system --create-namespace"
_TIMEOUT = 60.0  # seconds of one call, in which a log-in may ask the user something


class KubectlFailed(MIIError):  # noqa: N818 - reads as what it is at the raise
    """kubectl's complaint, with what to do about it. `reason` is the API server's, such as NotFound."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Kubectl:
    """`namespace` None is the context's own; `everywhere` is all of them."""

    def __init__(
        self, *, context: str | None = None, namespace: str | None = None, everywhere: bool = False
    ) -> None:
        self._context = ["--context", context] if context else []
        self._scope = ["--all-namespaces"] if everywhere else ["--namespace", namespace] if namespace else []

    def get(self, kinds: str, *words: str) -> dict[str, Any]:
        """One object, or a List. Raises KubectlFailed."""
        found, complaint = self.get_some(kinds, *words)
        if complaint:
            raise failure(complaint)
        return found

    def get_some(self, kinds: str, *words: str) -> tuple[dict[str, Any], str]:
        """As `get`, with what may be read where not everything may; kubectl's complaint about the rest."""
        done = self._run("get", kinds, *words, *self._scope, "--output=json", "--request-timeout=20s")
        complaint = (done.stderr.strip() or "kubectl failed") if done.returncode else ""
        try:
            return json.loads(done.stdout), complaint
        except ValueError:
            return {"items": []}, complaint or f"kubectl get {kinds} answers no JSON"

    def default_namespace(self) -> str:
        """The context's."""
        done = self._run("config", "view", "--minify", "--output=jsonpath={..namespace}")
        return done.stdout.strip() or "default"

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = ["kubectl", *words, *self._context]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
        except FileNotFoundError:
            raise KubectlFailed(
                "kubectl is not on PATH; install it: https://kubernetes.io/docs/tasks/tools/"
            ) from None
        except subprocess.TimeoutExpired:
            raise KubectlFailed(f"kubectl {words[0]} took longer than {_TIMEOUT:g} s") from None


def failure(complaint: str) -> KubectlFailed:
    """What kubectl has printed as one line, with a hint for the usual causes. Pure."""
    said = complaint.strip().splitlines()[-1].removeprefix("error: ").rstrip(".?")
    reason = re.match(r"Error from server \((\w+)\)", said)
    hint = next((f"; {hint}" for pattern, hint in _HINTS.items() if re.search(pattern, complaint)), "")
    return KubectlFailed(f"{said}{hint}", reason[1] if reason else "")


_HINTS: Mapping[str, str] = {
    "doesn't have a resource type": f"the operator is not installed in this cluster ({INSTALL})",
    r"\(Forbidden\)": f"ask for the permission to get and list {RESOURCE}, pods and events there",
    "(?i)context.*(not found|does not exist)|no context": "kubectl config get-contexts lists those there are",
    "(?i)unauthorized|must be logged in": "log in to the cluster again",
    "(?i)unable to connect|refused|no configuration|dial tcp|timeout": (
        "is the cluster up, and is it the one of KUBECONFIG or ~/.kube/config (kubectl config view)?"
    ),
}


def unread(complaint: str) -> str:
    """What of several kinds could not be read, in one line. Pure."""
    forbidden = re.findall(r"\(Forbidden\): (\S+) is forbidden", complaint)
    return f"{', '.join(forbidden)}: not permitted" if forbidden else str(failure(complaint))


def items(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a List."""
    return list(found.get("items") or ())
