"""The operator against a real API server, with controllers, a scheduler and nodes whose pods fail on order.

The nodes' pods do as the annotation `devcluster/outcome` says, so that failures need no broken images.
"""

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from .running import Operator

pytestmark = pytest.mark.cluster

Manifest = dict[str, Any]
CHILDREN = "deploy,svc,sa,role,rolebinding,netpol,pdb,pvc,job"


@pytest.fixture
def deploy(cluster, namespace) -> Callable[..., None]:
    """deploy(name, **spec): a MIIDeployment of a model whose size is not asked for."""

    def make(name: str = "m", check: bool = True, **spec: Any) -> str:
        metadata = {"name": name, "namespace": namespace}
        document = {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": metadata}
        return cluster.apply({**document, "spec": {"model": "file:///model", "gpus": 1, **spec}}, check=check)

    return make


@pytest.fixture
def condition(cluster, namespace) -> Callable[..., Any]:
    """condition(type, reason): waits until the deployment's condition has that reason; the condition."""

    def wait(kind: str, reason: str, name: str = "m", seconds: float = 30) -> Manifest:
        def found() -> Manifest | None:
            status = cluster.get(namespace, "mii", name).get("status", {})
            conditions = status.get("conditions", ())
            return next((c for c in conditions if c["type"] == kind and c["reason"] == reason), None)

        made: Manifest = cluster.wait(found, seconds)
        return made

    return wait


@pytest.fixture
def gateway_load(cluster, namespace, serve) -> Callable[..., Manifest]:
    """gateway_load(utilization): the gateway's pod answers so on /load; what is returned may be changed."""

    def start(utilization: float, **rest: Any) -> Manifest:
        replicas = [{"name": "r", "utilization": utilization}]
        said = {"waiting": 0, "idle_seconds": 0.0, "replicas": replicas, **rest}
        pods = cluster.get(namespace, "pods")
        [pod] = [p for p in pods if p["metadata"]["name"].startswith("m-gateway")]
        serve(lambda path: (200, {}, said), pod["status"]["podIP"], 8081)
        return said

    return start


def outcome(kind: str) -> Manifest:
    return {"metadata": {"annotations": {"devcluster/outcome": kind}}}


def versions(cluster, namespace) -> dict[str, str]:
    found = cluster.get(namespace, f"mii,{CHILDREN}")
    return {f"{i['kind']}/{i['metadata']['name']}": i["metadata"]["resourceVersion"] for i in found}


def container(cluster, namespace, name="m-server") -> Manifest:
    template = cluster.get(namespace, "deploy", name)["spec"]["template"]
    found: Manifest = template["spec"]["containers"][0]
    return found


def test_a_resource_becomes_ready_children_that_it_owns(cluster, namespace, start, deploy, condition):
    start()
    deploy()
    condition("Ready", "Ready")
    resource = cluster.get(namespace, "mii", "m")
    ours = [c for c in cluster.get(namespace, CHILDREN) if c["metadata"]["name"] != "default"]
    assert {(c["kind"], c["metadata"]["name"]) for c in ours} == {
        ("Deployment", "m-server"),
        ("Deployment", "m-gateway"),
        ("Service", "m"),
        ("Service", "m-server"),
        ("ServiceAccount", "m-server"),
        ("ServiceAccount", "m-gateway"),
        ("Role", "m-gateway"),
        ("RoleBinding", "m-gateway"),
        ("NetworkPolicy", "m-server"),
        ("NetworkPolicy", "m-gateway"),
        ("PodDisruptionBudget", "m-server"),
        ("PodDisruptionBudget", "m-gateway"),
    }
    for child in ours:
        [owner] = child["metadata"]["ownerReferences"]
        assert owner["uid"] == resource["metadata"]["uid"]
        assert not child["metadata"].get("finalizers")
    assert not resource["metadata"].get("finalizers")
    assert resource["status"]["summary"] == "1/1"
    assert resource["status"]["url"] == f"http://m.{namespace}.svc"
    assert "app.kubernetes.io/instance=m" in resource["status"]["selector"]
    events = cluster.get(namespace, "events")
    about = [e["reason"] for e in events if e["involvedObject"]["kind"] == "MIIDeployment"]
    assert len(about) == len(set(about))
    assert {"Planned", "Ready"} <= set(about)


def test_what_is_as_it_should_be_is_not_written(cluster, namespace, start, deploy, condition):
    operator = start()
    deploy()
    condition("Ready", "Ready")
    cluster.wait(lambda: _settled(operator))
    before, writes = versions(cluster, namespace), operator.writes()
    reconciles = operator.metrics()["mii_operator_reconcile_seconds_count"]
    cluster.kubectl("label", "mii", "m", "-n", namespace, "touched=yes")
    cluster.wait(lambda: operator.metrics()["mii_operator_reconcile_seconds_count"] > reconciles)
    assert operator.writes() == writes
    after = versions(cluster, namespace)
    before.pop("MIIDeployment/m"), after.pop("MIIDeployment/m")
    assert after == before


def _settled(operator: Operator) -> bool:
    """Whether half a second goes by without a reconcile."""
    count = operator.metrics()["mii_operator_reconcile_seconds_count"]
    time.sleep(0.5)
    return operator.metrics()["mii_operator_reconcile_seconds_count"] == count


def test_changes_arrive_and_what_the_plan_drops_goes(cluster, namespace, start, deploy, condition):
    start()
    deploy(cache={"claimName": "mine"}, model="org/model", gpus=1)
    cluster.wait(lambda: cluster.get(namespace, "job"))
    deploy(engine={"maxModelLen": 2048}, cache=None)
    cluster.wait(lambda: cluster.get(namespace, "deploy", "m-server"))
    cluster.wait(lambda: "--max-model-len=2048" in container(cluster, namespace)["args"])
    cluster.wait(lambda: not cluster.get(namespace, "job"))
    deploy()
    cluster.wait(lambda: "--max-model-len=2048" not in container(cluster, namespace)["args"])


@pytest.mark.parametrize("child", ["svc/m", "deploy/m-server", "role/m-gateway", "netpol/m-server"])
def test_a_child_that_is_taken_away_comes_back(cluster, namespace, start, deploy, condition, child):
    start()
    deploy()
    condition("Ready", "Ready")
    cluster.kubectl("delete", child, "-n", namespace)
    cluster.wait(lambda: cluster.get(namespace, *child.split("/")))


def test_a_child_that_is_changed_by_hand_is_put_right(cluster, namespace, start, deploy, condition):
    start()
    deploy()
    condition("Ready", "Ready")
    cluster.kubectl("scale", "deploy", "m-server", "-n", namespace, "--replicas=3")
    cluster.wait(lambda: cluster.get(namespace, "deploy", "m-server")["spec"]["replicas"] == 1)


def test_gpus_become_width_and_devices(cluster, namespace, start, deploy, condition):
    start()
    deploy(gpus=2)
    condition("Ready", "Ready")
    server = container(cluster, namespace)
    assert "--tensor-parallel=2" in server["args"]
    assert server["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert cluster.get(namespace, "mii", "m")["status"]["engine"]["tensorParallel"] == 2


def test_more_gpus_than_there_are(cluster, namespace, start, deploy, condition):
    start()
    deploy(gpus=64)
    found = condition("Scheduled", "WaitingForGPU")
    assert "Insufficient nvidia.com/gpu" in found["message"]
    assert condition("Ready", "WaitingForGPU")["message"] == found["message"]


def test_a_bad_change_leaves_what_runs(cluster, namespace, start, deploy, condition):
    start()
    deploy()
    condition("Ready", "Ready")
    before = cluster.get(namespace, "deploy", "m-server")["metadata"]["generation"]
    deploy(podTemplate={"spec": {"containers": [{"name": "server", "image": 7}]}})
    assert "image" in condition("Accepted", "RefusedByServer")["message"]
    assert cluster.get(namespace, "deploy", "m-server")["metadata"]["generation"] == before
    assert cluster.get(namespace, "mii", "m")["status"]["summary"] == "1/1"
    deploy()
    condition("Ready", "Ready")


def test_what_belongs_to_others_is_not_touched(cluster, namespace, start, deploy, condition):
    metadata = {"name": "m-server", "namespace": namespace}
    cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    start()
    deploy()
    assert "ServiceAccount m-server" in condition("Accepted", "NotOwned")["message"]
    assert cluster.get(namespace, "deploy") == []
    assert "ownerReferences" not in cluster.get(namespace, "sa", "m-server")["metadata"]


@pytest.mark.parametrize(
    ("kind", "type_", "reason"),
    [
        ("image-pull-backoff", "Available", "ImagePullFailed"),
        ("crash-loop", "Available", "CrashLooping"),
    ],
)
def test_pods_in_trouble(cluster, namespace, start, deploy, condition, kind, type_, reason):
    start()
    deploy(podTemplate=outcome(kind))
    assert condition(type_, reason)["message"]
    condition("Ready", reason)
    deploy(podTemplate={})
    condition("Ready", "Ready", seconds=60)


def test_heads_that_cannot_be_split_are_refused_before_any_pod(
    cluster, namespace, start, deploy, condition, hub
):
    hub.add("org/nine", heads=9)
    start(f"--hub-endpoint={hub.url}")
    deploy(model="org/nine", gpus=2)
    assert "9 attention heads" in condition("Ready", "InvalidParallelism")["message"]
    assert cluster.get(namespace, "deploy,pods,svc") == []
    hub.add("org/huge", heads=64, parameter_bytes=10**13)
    deploy(model="org/huge", gpus=2)
    assert "does not fit" in condition("Ready", "ModelDoesNotFit")["message"]
    deploy(model="org/absent", gpus=2)
    condition("Ready", "ModelNotFound")
    deploy(model="org/nine", gpus=3)
    assert condition("Ready", "Ready")
    assert "--tensor-parallel=3" in container(cluster, namespace)["args"]


def test_load_sets_replicas(cluster, namespace, start, deploy, condition, gateway_load):
    start()
    deploy(replicas=2)
    condition("Ready", "Ready")
    deploy(replicas=2, autoscaling={"min": 1, "max": 3})
    gateway_load(utilization=1.9)
    cluster.wait(lambda: cluster.get(namespace, "mii", "m")["status"]["summary"] == "3/3")
    deploy(replicas=2)
    cluster.wait(lambda: cluster.get(namespace, "mii", "m")["status"]["summary"] == "2/2")


def test_an_idle_model_goes_to_none_and_a_request_wakes_it(
    cluster, namespace, start, deploy, condition, gateway_load
):
    start()
    deploy(autoscaling={"min": 0, "max": 2, "idleAfter": "1m"})
    condition("Ready", "Ready")
    load = gateway_load(utilization=0.0, idle_seconds=61.0)
    condition("Ready", "ScaledToZero")
    load.update(waiting=2, idle_seconds=0.0, replicas=[])
    condition("Ready", "Ready")


def test_an_hpa_is_refused_or_scales_alone(cluster, namespace, start, deploy, condition):
    """Where autoscaling/v2 is. Without it, it is refused and what runs stays."""
    start()
    deploy(replicas=2)
    condition("Ready", "Ready")
    deploy(replicas=2, autoscaling={"by": "hpa", "min": 1, "max": 3})
    if "autoscaling/v2\n" not in cluster.kubectl("api-versions"):
        assert "spec.autoscaling.by" in condition("Accepted", "UnsupportedByServer")["message"]
        assert cluster.get(namespace, "mii", "m")["status"]["summary"] == "2/2"
        return
    hpa = cluster.wait(lambda: cluster.get(namespace, "hpa", "m-server"))
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (1, 3)
    assert cluster.get(namespace, "deploy", "m-server")["spec"]["replicas"] == 2
    deploy(replicas=2, autoscaling={"min": 1, "max": 3})
    cluster.wait(lambda: not cluster.get(namespace, "hpa"))


def test_scale(cluster, namespace, start, deploy, condition):
    start()
    deploy()
    condition("Ready", "Ready")
    cluster.kubectl("scale", "mii", "m", "-n", namespace, "--replicas=3")
    cluster.wait(lambda: cluster.get(namespace, "mii", "m")["status"]["summary"] == "3/3")
    cluster.kubectl("scale", "mii", "m", "-n", namespace, "--replicas=0")
    condition("Ready", "ScaledToZero")


def test_deletion_leaves_nothing_even_without_an_operator(cluster, namespace, start, deploy, condition):
    operator = start()
    deploy()
    condition("Ready", "Ready")
    operator.stop()
    cluster.kubectl("delete", "mii", "m", "-n", namespace, "--wait=false")
    left = f"mii,{CHILDREN},rs,pods,endpoints"
    cluster.wait(
        lambda: not [i for i in cluster.get(namespace, left) if i["metadata"]["name"] != "default"], 60
    )


def test_an_operator_that_is_killed_and_comes_back_changes_nothing(
    cluster, namespace, start, deploy, condition, monkeypatch
):
    monkeypatch.setenv("POD_NAME", "operator-0")
    operator = start()
    deploy(replicas=2)
    condition("Ready", "Ready")
    cluster.wait(lambda: _settled(operator))
    before = versions(cluster, namespace)
    operator.stop(signal.SIGKILL)
    again = start()
    cluster.wait(lambda: again.metrics()["mii_operator_reconcile_seconds_count"] >= 1)
    cluster.wait(lambda: _settled(again))
    assert versions(cluster, namespace) == before
    assert again.writes() == {}


def test_two_operators_take_turns(cluster, namespace, start, deploy, condition):
    first = start()
    second = start(leads=False)
    deploy()
    condition("Ready", "Ready")
    assert not second.leads
    assert second.writes() == {}
    assert first.stop() == 0
    cluster.wait(lambda: second.leads, 10)
    deploy(gpus=2)
    cluster.wait(lambda: "--tensor-parallel=2" in container(cluster, namespace)["args"])


def test_a_model_is_fetched_to_its_volume_before_a_server_starts(
    cluster, namespace, start, deploy, condition
):
    start("--hub-endpoint=http://127.0.0.1:9")
    deploy(model="org/model", cache={"claimName": "mine"})
    condition("ModelCached", "DownloadWaiting")
    assert cluster.get(namespace, "deploy", "m-server") is None
    assert cluster.get(namespace, "deploy", "m-gateway") is not None
