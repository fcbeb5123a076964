"""Install, upgrade and uninstall on a real API server. Nothing has to run there: no pod is waited for."""

import json
import os
import shutil
import subprocess
import uuid

import helm_python
import pytest
import yaml

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not os.environ.get("KUBECONFIG"), reason="no API server: set KUBECONFIG to one that may be written to"
    ),
    pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed"),
]

CRD = "miideployments.mii.dev"
OWNED = "serviceaccounts,services,deployments,networkpolicies,poddisruptionbudgets,roles,rolebindings,leases"


def kubectl(*args, check=True, text=None):
    done = subprocess.run(["kubectl", *args], input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr}")
    return done.stdout.strip() if check else done.stderr


@pytest.fixture
def namespace():
    name = f"mii-chart-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def helm(namespace):
    """Helm in a namespace of its own, to which a definition that is there already has been handed over."""
    if kubectl("get", "crd", CRD, "--ignore-not-found"):
        kubectl("label", "crd", CRD, "--overwrite", "app.kubernetes.io/managed-by=Helm")
        owner = ("meta.helm.sh/release-name=mii", f"meta.helm.sh/release-namespace={namespace}")
        kubectl("annotate", "crd", CRD, "--overwrite", *owner)
    with helm_python.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=namespace) as config:
        yield config
        config.uninstall("mii", ignore_not_found=True)


def left(namespace):
    """What a release has in its namespace and in the cluster, but for the definition."""
    labels = "app.kubernetes.io/name=mii-operator"
    inside = kubectl("get", OWNED, "-n", namespace, "-l", labels, "-o", "name").splitlines()
    roles = kubectl("get", "clusterroles,clusterrolebindings", "-l", labels, "-o", "name").splitlines()
    return inside + [name for name in roles if f"/{namespace}-" in name]


def test_install_upgrade_uninstall(chart, helm, namespace):
    helm.install(chart, "mii", namespace=namespace)
    kubectl("wait", "--for=condition=Established", f"crd/{CRD}", "--timeout=30s")
    assert len(left(namespace)) == 9
    assert "poddisruptionbudget" not in " ".join(left(namespace))

    deployment = {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": {"name": "mistral"}}
    deployment["spec"] = {"model": "org/name"}
    kubectl("apply", "-n", namespace, "-f", "-", text=yaml.safe_dump(deployment))

    helm.upgrade(chart, "mii", {"replicas": 2}, namespace=namespace)
    assert "poddisruptionbudget" in " ".join(left(namespace))
    replicas = kubectl("get", "deploy", "mii-operator", "-n", namespace, "-o", "jsonpath={.spec.replicas}")
    assert replicas == "2"

    helm.uninstall("mii")
    kubectl("wait", "--for=delete", "deploy/mii-operator", "-n", namespace, "--timeout=30s")
    assert left(namespace) == []
    assert kubectl("get", "mii", "mistral", "-n", namespace, "-o", "name"), "uninstalling deleted a model"


def test_upgrade_brings_the_definition(chart, helm, namespace, tmp_path):
    """From a chart whose definition lacks a column."""
    old = shutil.copytree(chart, tmp_path / "old")
    path = old / "files/miideployments.yaml"
    crd = yaml.safe_load(path.read_text())
    columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    crd["spec"]["versions"][0]["additionalPrinterColumns"] = [c for c in columns if c["name"] != "Device"]
    path.write_text(yaml.safe_dump(crd))

    helm.install(old, "mii", namespace=namespace)
    assert "Device" not in stored_columns()
    helm.upgrade(chart, "mii", namespace=namespace)
    assert "Device" in stored_columns()


def stored_columns():
    crd = json.loads(kubectl("get", "crd", CRD, "-o", "json"))
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


ALLOWED = [
    ("list", "miideployments.mii.dev"),
    ("patch", "miideployments.mii.dev/status"),
    ("create", "deployments.apps"),
    ("delete", "persistentvolumeclaims"),
    ("patch", "roles.rbac.authorization.k8s.io"),
    ("create", "horizontalpodautoscalers.autoscaling"),
    ("get", "secrets"),
    ("get", "pods/log"),
    ("create", "events"),
]
FORBIDDEN = [
    ("list", "secrets"),
    ("create", "secrets"),
    ("delete", "miideployments.mii.dev"),
    ("patch", "miideployments.mii.dev"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("delete", "pods"),
    ("escalate", "roles.rbac.authorization.k8s.io"),
    ("bind", "roles.rbac.authorization.k8s.io"),
    ("create", "clusterroles.rbac.authorization.k8s.io"),
    ("impersonate", "users"),
    ("create", "statefulsets.apps"),
    ("*", "*"),
]


def allowed(namespace, at, verb, resource, name=""):
    """Of a resource, a resource/subresource, or the one of that name."""
    account = f"--as=system:serviceaccount:{namespace}:mii-operator"
    resource, _, sub = resource.partition("/")
    what = [f"{resource}/{name}"] if name else [resource, *([f"--subresource={sub}"] if sub else [])]
    # Its exit code is 1 for no.
    command = ["kubectl", "auth", "can-i", account, "-n", at, verb, *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "yes"


@pytest.mark.parametrize("namespaced", [False, True], ids=["everywhere", "one namespace"])
def test_the_account_can_do_what_it_needs_and_no_more(chart, helm, namespace, namespaced):
    values = {"watchNamespaces": [namespace]} if namespaced else {}
    helm.install(chart, "mii", values, namespace=namespace)
    assert [p for p in ALLOWED if not allowed(namespace, namespace, *p)] == []
    assert [p for p in FORBIDDEN if allowed(namespace, namespace, *p)] == []
    assert [p for p in ALLOWED if allowed(namespace, "kube-system", *p)] == ([] if namespaced else ALLOWED)
    assert allowed(namespace, namespace, "list", "nodes") is not namespaced
    assert allowed(namespace, namespace, "update", "leases.coordination.k8s.io", "mii-operator")
    assert not allowed(namespace, namespace, "update", "leases.coordination.k8s.io", "other")
    assert not allowed(namespace, "kube-system", "update", "leases.coordination.k8s.io", "mii-operator")
