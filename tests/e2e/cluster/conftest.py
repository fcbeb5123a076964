"""A cluster that runs the images: the chart installed, a MIIDeployment of SmolLM2, continuous load on it."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from .deployment import Deployment
from .hub import Hub
from .kube import kubectl, wait_for
from .load import Load, Mark
from .release import TAG, Release

IMAGES = [f"localhost/{name}:{TAG}" for name in ("mii-operator", "mii-smollm2")]
ENABLE = 'eval "$(tests/e2e/cluster/rig /tmp/rig)"'
NAME = "smollm2"


def _images() -> set[str]:
    """That nodes say they have."""
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    images = [image for node in nodes for image in node["status"].get("images", ())]
    return {name for image in images for name in image["names"] or ()}


@pytest.fixture(scope="session")
def need_images() -> Callable[..., None]:
    """need_images(*names): skips unless the cluster's nodes have them."""

    def check(*names: str) -> None:
        if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
            pytest.skip(f"no cluster: {ENABLE}")
        if os.environ.get("MII_E2E_IMAGES") == "1":
            return
        if missing := sorted(set(names) - _images()):
            pytest.skip(f"no node has {' and '.join(missing)} (MII_E2E_IMAGES=1 if it does): {ENABLE}")

    return check


@pytest.fixture(scope="session")
def make_namespace(need_images: Callable[..., None]) -> Iterator[Callable[[], str]]:
    """make_namespace(): an empty one, where only pods under the restricted Pod Security Standard may run."""
    need_images(*IMAGES)
    made: list[str] = []

    def make() -> str:
        name = f"mii-e2e-{uuid.uuid4().hex[:8]}"
        kubectl("create", "namespace", name)
        made.append(name)
        kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        account = ("get", "serviceaccount", "default", "-n", name, "-o", "name", "--ignore-not-found")
        wait_for(lambda: kubectl(*account), "the namespace's own account")
        return name

    yield make
    if made:
        kubectl("delete", "namespace", *made, "--wait=false")


@pytest.fixture(scope="session")
def release(make_namespace: Callable[[], str]) -> Iterator[Release]:
    """The chart, in a namespace of its own, whose operator looks models up on that namespace's hub."""
    release = Release(make_namespace())
    release.install(extraArgs=[f"--hub-endpoint={Hub(release.namespace).url}"])
    yield release
    kubectl("delete", "mii", "--all", "-n", release.namespace)
    release.uninstall()


@pytest.fixture(scope="session")
def api_key() -> str:
    """That the load begins with; not a word that anything else could say."""
    return f"key-{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def token() -> str:
    """That the server is given for the hub."""
    return f"hf_{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def deployment(release: Release, api_key: str, token: str) -> Deployment:
    """Ready: one server, two gateways, an API key for the tenant `load`."""
    found = Deployment(release.namespace, NAME)
    found.kubectl("create", "secret", "generic", "keys", f"--from-literal=load={api_key}")
    found.kubectl("create", "secret", "generic", "token", f"--from-literal=token={token}")
    found.apply(
        model="file:///models/smollm2.gguf",
        servedName=NAME,
        gpus=0,
        tokenSecretRef={"name": "token", "key": "token"},
        engine={"maxModelLen": 1024, "args": ["--kv-blocks=64", "--cpu-threads=1"]},
        gateway={"replicas": 2, "apiKeysSecretRef": {"name": "keys"}, "queue": {"timeout": "5m"}},
        rollout={"drainTimeout": "6m"},  # longer than a request may wait for a server
    )
    wait_for(lambda: found.get("mii", NAME).get("status"), "the operator takes it up")
    found.wait()
    return found


@pytest.fixture(scope="module")
def load(deployment: Deployment, api_key: str) -> Iterator[Load]:
    with Load(deployment.address(), NAME, api_key) as load:
        yield load


@pytest.fixture
def none_fails(load: Load) -> Callable[[str], AbstractContextManager[Mark]]:
    """none_fails(name): marks the block, and fails after it if a request has."""

    @contextlib.contextmanager
    def marked(name: str) -> Iterator[Mark]:
        with load.mark(name) as during:
            yield during
        assert during.requests
        assert [str(outcome) for outcome in during.failed] == []

    return marked


@pytest.fixture(scope="session")
def hub(release: Release) -> Hub:
    """The operator's."""
    hub = Hub(release.namespace)
    hub.start()
    return hub


@pytest.fixture
def own_release(make_namespace: Callable[[], str]) -> Iterator[Release]:
    """One that is not installed yet, in an empty namespace."""
    release = Release(make_namespace())
    yield release
    release.uninstall()


@pytest.fixture
def make_deployment(release: Release) -> Iterator[Callable[..., Deployment]]:
    """make_deployment(**spec): one of the test's own, beside the session's."""
    made: list[Deployment] = []

    def make(**spec: Any) -> Deployment:
        deployment = Deployment(release.namespace, f"d{uuid.uuid4().hex[:6]}")
        made.append(deployment)
        deployment.apply(**spec)
        return deployment

    yield make
    for deployment in made:
        deployment.kubectl("delete", "mii", deployment.name)
        wait_for(lambda d=deployment: not d.pods("server", "gateway"), "its pods are gone")
