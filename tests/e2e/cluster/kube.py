"""What the tests ask of the cluster that KUBECONFIG names, through kubectl.

Only what has no API (killing a process of a pod or the API server) needs the processes in sight, as they are
with ../shared/devcluster and with kind.
"""

import functools
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

SECONDS = 300.0  # for a pod to start or to end: ten where nothing else runs

Object = dict[str, Any]


def kubectl(*args: str, manifest: Object | None = None, text: str | None = None, check: bool = True) -> str:
    """What it prints, fed a manifest or a text; without `check` also its complaint."""
    fed = text if manifest is None else json.dumps(manifest)
    done = subprocess.run(["kubectl", *args], input=fed, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr}")
    return (done.stdout + done.stderr if done.returncode else done.stdout).strip()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The first true value of a condition of the cluster."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.5)
    return value


@functools.cache
def kinds(*without: str) -> str:
    """Every kind of object that a namespace can hold but for these, comma-separated as kubectl takes them."""
    words = ("api-resources", "--namespaced", "--verbs=list,delete", "-o", "name")
    names = kubectl(*words).splitlines()
    return ",".join(name for name in names if name.partition(".")[0] not in without)


def everything(namespace: str) -> set[str]:
    """All objects of a namespace, as kind/name, but for events and what every namespace has."""
    names = kubectl("get", kinds("events"), "-n", namespace, "-o", "name").splitlines()
    return {name for name in names if not any(own in name for own in ("/default", "/kube-root-ca.crt"))}


def api_version(group: str, *versions: str) -> str:
    """The first of a group's versions that this API server has."""
    served = kubectl("api-versions").split()
    return next(f"{group}/{version}" for version in versions if f"{group}/{version}" in served)


def processes(pod: Object) -> list[psutil.Process]:
    """Those of a pod's containers. Skips where this machine does not see them."""
    uid = pod["metadata"]["uid"]
    marks = (uid, uid.replace("-", "_"))
    found = []
    for process in psutil.process_iter():
        try:
            cgroups = Path(f"/proc/{process.pid}/cgroup").read_text()
        except OSError:
            continue
        if any(mark in cgroups for mark in marks):
            found.append(process)
    if not found:
        pytest.skip("the nodes' processes cannot be seen from here")
    return found
