"""Manifests and facts for plans; a cluster for what needs one."""

import json
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from mii_operator.facts import Capabilities, Cluster, Facts, Images, capabilities
from mii_spec.model_facts import ModelFacts
from mii_spec.sizing import GIB, GpuFacts
from mii_spec.spec import MIIDeployment, parse

from .running import Operator

JSON = {"Content-Type": "application/json"}
Answer = tuple[int, dict[str, str], Any]  # status, headers, JSON
ROOT = Path(__file__).parents[2]
IMAGES = Images(server="registry.example/mii-server:1.0", gateway="registry.example/mii-operator:1.0")
NEWEST = capabilities(
    {
        "policy/v1/PodDisruptionBudget",
        "policy/v1beta1/PodDisruptionBudget",
        "monitoring.coreos.com/v1/ServiceMonitor",
        "autoscaling/v1/HorizontalPodAutoscaler",
        "autoscaling/v2/HorizontalPodAutoscaler",
    }
)
OLDEST = capabilities({"policy/v1beta1/PodDisruptionBudget", "autoscaling/v2beta2/HorizontalPodAutoscaler"})

MISTRAL = ModelFacts(
    heads=32,
    kv_heads=8,
    layers=32,
    head_dim=128,
    hidden=4096,
    parameter_bytes=14_496_047_104,
    max_position=32768,
)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def newest() -> Capabilities:
    return NEWEST


@pytest.fixture(scope="session")
def oldest() -> Capabilities:
    """Of Kubernetes 1.20 without the Prometheus operator."""
    return OLDEST


@pytest.fixture(scope="session")
def deployment() -> Callable[..., MIIDeployment]:
    """deployment(**spec): as the API server has stored it."""

    def make(**spec: Any) -> MIIDeployment:
        return parse(
            {
                "apiVersion": "mii.dev/v1alpha1",
                "kind": "MIIDeployment",
                "metadata": {"name": "mistral", "namespace": "prod", "uid": "0f8f-uid"},
                "spec": {"model": "mistralai/Mistral-7B-Instruct-v0.3", **spec},
            }
        )

    return make


@pytest.fixture(scope="session")
def example() -> Callable[[str], MIIDeployment]:
    """example(name): examples/NAME.yaml as the API server has stored it."""

    def load(name: str) -> MIIDeployment:
        document = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
        document["metadata"] |= {"namespace": "prod", "uid": "0f8f-uid"}
        return parse(document)

    return load


@pytest.fixture(scope="session")
def facts() -> Callable[..., Facts]:
    """facts(gpus, capabilities, **cluster): Mistral 7B on nodes with that many 80 GB GPUs."""

    def make(gpus: int = 8, capabilities: Capabilities = NEWEST, **cluster: Any) -> Facts:
        return Facts(
            model=MISTRAL,
            gpu=GpuFacts(memory_bytes=80 * GIB, per_node=gpus) if gpus else None,
            cluster=Cluster(IMAGES, capabilities, **cluster),
        )

    return make


NO_CLUSTER = (
    "no cluster: export KUBECONFIG of one that may be written to "
    '(eval "$(../shared/devcluster/up --control-plane --fake-nodes 3)", or kind)'
)


class ApiServer:
    """The cluster of $KUBECONFIG, through kubectl."""

    def kubectl(self, *args: str, manifests: list[Any] | None = None, check: bool = True) -> str:
        """What it prints; without `check` its complaint."""
        text = None if manifests is None else yaml.safe_dump_all(manifests)
        done = subprocess.run(["kubectl", *args], input=text, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr}")
        return done.stdout if check else done.stderr

    def apply(self, *manifests: Any, check: bool = True) -> str:
        args = ("apply", "--server-side", "--force-conflicts", "--field-manager=test", "-f", "-")
        return self.kubectl(*args, manifests=list(manifests), check=check)

    def get(self, namespace: str, kinds: str, name: str = "") -> Any:
        """An object, or None; without a name all of the kinds, as a list."""
        words = ("get", kinds, *([name] if name else []), "-n", namespace, "-o", "json", "--ignore-not-found")
        text = self.kubectl(*words)
        found = json.loads(text) if text else None
        return found if name else (found or {"items": []})["items"]

    def wait(self, probe: Callable[[], Any], seconds: float = 30) -> Any:
        """The first true answer of `probe`; fails with the last one."""
        deadline = time.monotonic() + seconds
        while not (answer := probe()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {answer!r}"
            time.sleep(0.1)
        return answer


@pytest.fixture(scope="session")
def cluster() -> ApiServer:
    """With the custom resource's definition, without CEL rules where they are not known (before 1.25)."""
    if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
        pytest.skip(NO_CLUSTER)
    server = ApiServer()
    crd = yaml.safe_load((ROOT / "crds/miideployments.yaml").read_text())
    version = json.loads(server.kubectl("get", "--raw", "/version"))
    if (int(version["major"]), int(version["minor"].rstrip("+"))) < (1, 25):
        crd = without(crd, "x-kubernetes-validations")
    server.apply(crd)
    server.kubectl("wait", "--for=condition=Established", "crd/miideployments.mii.dev", "--timeout=30s")
    return server


@pytest.fixture
def namespace(cluster: ApiServer) -> Iterator[str]:
    name = f"mii-test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def start(cluster, namespace, tmp_path) -> Iterator[Callable[..., Operator]]:
    """start(*args): an operator for the test's namespace that has taken the lead, unless leads=False."""
    started: list[Operator] = []

    def make(*args: str, leads: bool = True) -> Operator:
        operator = Operator(namespace, tmp_path / f"{uuid.uuid4().hex[:6]}.log", *args)
        started.append(operator)
        cluster.wait(lambda: operator.metrics() if not leads else operator.leads, 30)
        return operator

    yield make
    for operator in started:
        if operator.process.poll() is None:
            assert operator.stop() == 0, operator.log
        assert "Traceback" not in operator.log


def without(node: Any, key: str) -> Any:
    if isinstance(node, dict):
        return {k: without(v, key) for k, v in node.items() if k != key}
    return [without(item, key) for item in node] if isinstance(node, list) else node


def serving(address: str, port: int, answer: Callable[[str], Answer]) -> tuple[int, Callable[[], None]]:
    """Answers GET and HEAD with status, headers and JSON of `answer(path)`; the port, and what ends it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.path)
            text = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**JSON, "Content-Length": str(len(text)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(text)

        do_HEAD = do_GET  # noqa: N815 - the base class's name

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer((address, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return server.server_port, stop


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """serve(answer, address, port): an HTTP server for the test; its port."""
    stops: list[Callable[[], None]] = []

    def start(answer: Callable[[str], Answer], address: str = "127.0.0.1", port: int = 0) -> int:
        port, stop = serving(address, port, answer)
        stops.append(stop)
        return port

    yield start
    for stop in stops:
        stop()


class Hub:
    """A Hugging Face hub with the models that `add` has named; `asked` are the paths it was asked for."""

    def __init__(self) -> None:
        self.url = ""
        self.models: dict[str, tuple[dict[str, Any], int]] = {}
        self.refusal: tuple[int, str] | None = None  # status and X-Error-Code of every answer
        self.asked: list[str] = []

    def add(self, name: str, *, heads: int, parameter_bytes: int = 10**9, **config: Any) -> None:
        sizes = {"num_attention_heads": heads, "hidden_size": heads * 64, "num_hidden_layers": 2}
        self.models[name] = ({**sizes, **config}, parameter_bytes)

    def answer(self, path: str) -> Answer:
        self.asked.append(path)
        model, _, file = path.strip("/").replace("/resolve/main/", "\n").partition("\n")
        if self.refusal:
            return self.refusal[0], {"X-Error-Code": self.refusal[1]}, {}
        if model not in self.models:
            return 401, {"X-Error-Code": "RepoNotFound"}, {}
        config, size = self.models[model]
        files = {"config.json": config, "model.safetensors.index.json": {"metadata": {"total_size": size}}}
        return (200, {}, files[file]) if file in files else (404, {"X-Error-Code": "EntryNotFound"}, {})


@pytest.fixture
def hub(serve: Callable[..., int]) -> Hub:
    made = Hub()
    made.url = f"http://127.0.0.1:{serve(made.answer)}"
    return made
