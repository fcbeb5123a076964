"""An operator that runs against a cluster."""

import re
import signal
import subprocess
import sys
import urllib.request
from typing import Any


class Operator:
    """A process of its own, for one namespace, with a Lease of that namespace."""

    def __init__(self, namespace: str, log: Any, *args: str) -> None:
        command = [sys.executable, "-m", "mii_operator.main", "--metrics-port=0", f"--namespace={namespace}"]
        lease = (f"--lease-namespace={namespace}", "--lease-name=test")
        self._log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen([*command, *lease, *args], stderr=stderr)

    @property
    def log(self) -> str:
        text: str = self._log.read_text()
        return text

    def metrics(self) -> dict[str, float]:
        """Sample, with its labels, to value; empty until it listens."""
        port = re.search(r"on port (\d+)", self.log)
        if not port:
            return {}
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def writes(self) -> dict[str, float]:
        """Requests that change what is there, but for the Lease's."""
        verbs = ('verb="apply"', 'verb="status"', 'verb="create"', 'verb="delete"', 'verb="dry-run"')
        return {
            name: value
            for name, value in self.metrics().items()
            if name.startswith("mii_operator_api_requests_total")
            and any(verb in name for verb in verbs)
            and 'kind="Lease"' not in name
        }

    @property
    def leads(self) -> bool:
        return self.metrics().get("mii_operator_leader") == 1.0

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=20)
