"""What the chart renders for the oldest and the newest Kubernetes."""

import json
from itertools import chain

import helm_python
import pytest
import yaml

from mii_operator import constants, facts, plan
from mii_operator.args import OperatorArgs
from mii_spec import launch
from mii_spec.spec import parse

OLDEST, NEWEST = "v1.20.0", "v1.33.0"
MONITORING = "monitoring.coreos.com/v1/ServiceMonitor"
VERSIONS = pytest.mark.parametrize("kube", [OLDEST, NEWEST])
EVERYTHING = {
    "replicas": 2,
    "watchNamespaces": ["team-a", "team-b"],
    "images": {"pullSecrets": ["registry"]},
    "rbac": {"readNodes": True},
    "extraArgs": ["--log-level=debug"],
    "podLabels": {"team": "a"},
    "podAnnotations": {"note": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}]},
    "metrics": {"dashboard": {"enabled": True}, "serviceMonitor": {"labels": {"release": "prometheus"}}},
    "test": {"deployment": "team-a/mistral", "apiKeySecret": {"name": "keys", "key": "test"}},
}
VALUES = pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pods(manifests):
    """Every pod's spec, of the operator and of the test."""
    operator = manifests.one("Deployment")["spec"]["template"]
    return [operator["spec"], manifests.one("Pod")["spec"]]


def rules(manifests):
    return list(
        chain.from_iterable(o["rules"] for kind in ("ClusterRole", "Role") for o in manifests.all(kind))
    )


def granted(rules):
    """(group, resource, verb) of everything that they allow."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@VALUES
@VERSIONS
def test_lint(chart, values, kube):
    report = helm_python.lint(chart, values, strict=True, kube_version=kube)
    assert not report["errors"]
    assert [m["error"] for m in report["messages"] if m["severity"] > 1] == []


@VALUES
@VERSIONS
def test_names_and_labels(render, values, kube):
    for item in render(values, kube=kube, apis=(MONITORING,)):
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "mii"
        cluster_wide = item["kind"] in ("CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding")
        assert ("namespace" not in item["metadata"]) == cluster_wide, item["kind"]


@VALUES
def test_pods_are_restricted(render, values):
    for pod in pods(render(values)):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == constants.USER_ID
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod)
        assert {key for v in pod.get("volumes", ()) for key in v} <= {"name", "emptyDir"}
        for container in pod["containers"]:
            assert container["securityContext"] == RESTRICTED
            assert container["resources"]["limits"]["memory"]


def test_probes_ask_the_metrics_port(render):
    container = pods(render())[0]["containers"][0]
    assert container["ports"] == [{"name": "metrics", "containerPort": 8080, "protocol": "TCP"}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}


@VALUES
def test_the_operator_takes_its_arguments(render, values):
    container = pods(render(values))[0]["containers"][0]
    assert container["command"] == ["mii-operator"]
    args = launch.parse(OperatorArgs, container["args"])
    assert args.metrics_port == 8080
    assert args.namespace == tuple(values.get("watchNamespaces", ()))
    assert args.images == facts.Images(
        server="localhost/mii-server:0.1.0",
        gateway="localhost/mii-operator:0.1.0",
        pull_policy="IfNotPresent",
        pull_secrets=tuple(values.get("images", {}).get("pullSecrets", ())),
    )


def test_images_are_named_in_one_place(render):
    images = {"registry": "registry.example:5000/team", "tag": "1.2", "pullPolicy": "Always"}
    for pod in pods(render({"images": images})):
        container = pod["containers"][0]
        assert container["image"] == "registry.example:5000/team/mii-operator:1.2"
        assert container["imagePullPolicy"] == "Always"


@VALUES
@VERSIONS
def test_no_permission_is_a_wildcard(render, values, kube):
    made = rules(render(values, kube=kube))
    assert made
    assert not [rule for rule in made if "*" in json.dumps(rule) or "nonResourceURLs" in rule]


def test_permissions_cover_what_plans_consist_of(render, root):
    """Every kind that an example's plan has can be applied and deleted; what its Roles grant is had."""
    allowed = granted(render().one("ClusterRole")["rules"])
    needed = set()
    for path in (root / "examples").glob("*.yaml"):
        for child in children(path):
            group = child["apiVersion"].rpartition("/")[0]
            plural = {"NetworkPolicy": "networkpolicies"}.get(child["kind"], child["kind"].lower() + "s")
            needed |= {(group, plural, v) for v in ("get", "list", "watch", "create", "patch", "delete")}
            needed |= granted(child.get("rules", ()))
    assert needed <= allowed, needed - allowed


def children(path):
    document = yaml.safe_load(path.read_text())
    document["metadata"] |= {"namespace": "prod", "uid": "0f8f-uid"}
    offered = facts.Capabilities("policy/v1", "monitoring.coreos.com/v1", "autoscaling/v2")
    cluster = facts.Cluster(facts.Images(server="s", gateway="g"), offered)
    gpu = plan.sizing.GpuFacts(memory_bytes=80 * 2**30, per_node=8)
    return plan.plan(parse(document), facts.Facts(gpu=gpu, cluster=cluster)).children


def test_namespaced_mode_asks_nothing_of_the_cluster(render):
    everywhere = render()
    assert not everywhere.all("Role", "mii-system-mii-operator")
    made = render({"watchNamespaces": ["team-a", "team-b"]})
    assert not made.all("ClusterRole") + made.all("ClusterRoleBinding")
    roles = made.all("Role", "mii-system-mii-operator")
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    nodes = {("", "nodes", "list"), ("", "nodes", "watch")}
    assert granted(roles[0]["rules"]) == granted(everywhere.one("ClusterRole")["rules"]) - nodes
    seeing = render({"watchNamespaces": ["team-a"], "rbac": {"readNodes": True}})
    assert granted(seeing.one("ClusterRole")["rules"]) == nodes


def test_the_lease_is_the_charts_and_the_operators_alone(render):
    made = render({"fullnameOverride": "serving"})
    assert made.one("Lease")["metadata"]["name"] == "serving"
    assert "--lease-name=serving" in pods(made)[0]["containers"][0]["args"]
    (rule,) = made.one("Role")["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == (["serving"], ["get", "update"])


def test_secrets_are_read_by_name_alone_or_not_at_all(render):
    secrets = {g for g in granted(rules(render())) if g[1] == "secrets"}
    assert secrets == {("", "secrets", "get")}
    assert not [g for g in granted(rules(render({"rbac": {"readSecrets": False}}))) if g[1] == "secrets"]


def test_every_binding_is_to_the_one_account_and_a_role_that_is_there(render):
    for values in ({}, EVERYTHING, {"serviceAccount": {"name": "robot"}}):
        made = render(values)
        account = made.one("ServiceAccount")["metadata"]["name"]
        assert all(pod["serviceAccountName"] == account for pod in pods(made))
        bindings = made.all("ClusterRoleBinding") + made.all("RoleBinding")
        assert bindings
        for binding in bindings:
            subject = {"kind": "ServiceAccount", "name": account, "namespace": "mii-system"}
            assert binding["subjects"] == [subject]
            role = made.all(binding["roleRef"]["kind"], binding["roleRef"]["name"])
            namespace = binding["metadata"].get("namespace")
            assert namespace in [r["metadata"].get("namespace") for r in role]


def test_without_accounts_and_roles_of_its_own(render):
    made = render({"serviceAccount": {"create": False, "name": "ready"}, "rbac": {"create": False}})
    kinds = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    assert not kinds & {o["kind"] for o in made}
    assert pods(made)[0]["serviceAccountName"] == "ready"


def test_the_definition_is_the_one_in_crds(chart, root, render):
    text = (root / "crds/miideployments.yaml").read_text()
    assert (chart / "files/miideployments.yaml").read_text() == text, (
        "cp crds/miideployments.yaml charts/mii-operator/files/"
    )
    made = render().one("CustomResourceDefinition")
    assert made["spec"] == yaml.safe_load(text)["spec"]
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@pytest.mark.parametrize(("kube", "has_rules"), [("v1.20.2", False), ("v1.24.17", False), ("v1.25.0", True)])
def test_rules_go_to_api_servers_that_know_them(render, root, kube, has_rules):
    made = render(kube=kube).one("CustomResourceDefinition")
    assert ("x-kubernetes-validations" in json.dumps(made)) == has_rules
    if not has_rules:
        original = yaml.safe_load((root / "crds/miideployments.yaml").read_text())
        assert made["spec"] == without(original["spec"], "x-kubernetes-validations")


def without(node, key):
    if isinstance(node, dict):
        return {k: without(v, key) for k, v in node.items() if k != key}
    return [without(item, key) for item in node] if isinstance(node, list) else node


def test_the_definition_can_be_left_to_others(render):
    assert not render({"crds": {"install": False}}).all("CustomResourceDefinition")
    mortal = render({"crds": {"keep": False}}).one("CustomResourceDefinition")
    assert "annotations" not in mortal["metadata"]


@pytest.mark.parametrize(
    ("kube", "version"), [(OLDEST, "policy/v1beta1"), ("v1.21.0", "policy/v1"), (NEWEST, "policy/v1")]
)
def test_a_budget_where_there_are_several(render, kube, version):
    assert not render(kube=kube).all("PodDisruptionBudget")
    budget = render({"replicas": 2}, kube=kube).one("PodDisruptionBudget")
    assert budget["apiVersion"] == version
    assert budget["spec"]["maxUnavailable"] == 1


def test_selectors_find_the_operator_alone(render):
    made = render(EVERYTHING, apis=(MONITORING,))
    labels = made.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    test_labels = made.one("Pod")["metadata"]["labels"]
    selectors = [
        made.one("Deployment")["spec"]["selector"]["matchLabels"],
        made.one("Service")["spec"]["selector"],
        made.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        made.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= test_labels.items()
    service = made.one("Service")["metadata"]["labels"]
    monitor = made.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= service.items()


def test_only_metrics_are_reachable(render):
    policy = render().one("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8080}]}]
    peers = render(EVERYTHING).one("NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert peers == EVERYTHING["networkPolicy"]["metricsFrom"]
    assert not render({"networkPolicy": {"enabled": False}}).all("NetworkPolicy")


def test_a_monitor_only_where_prometheus_knows_it(render):
    assert not render().all("ServiceMonitor")
    monitor = render(EVERYTHING, apis=(MONITORING,)).one("ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    off = {"metrics": {"serviceMonitor": {"enabled": False}}}
    assert not render(off, apis=(MONITORING,)).all("ServiceMonitor")


def test_placement_reaches_the_pod(render):
    made = render(EVERYTHING).one("Deployment")["spec"]["template"]
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["annotations"] == {"note": "b"}
    for field in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert made["spec"][field] == EVERYTHING[field]
    assert made["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_labels_of_the_chart_win(render):
    made = render({"podLabels": {"app.kubernetes.io/name": "other"}}).one("Deployment")
    assert made["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == constants.MANAGED_BY


def test_notes_name_what_was_installed(render_text):
    notes = next(text for path, text in render_text(EVERYTHING).items() if path.endswith("NOTES.txt"))
    assert "team-a, team-b" in notes
    assert "helm test mii -n mii-system" in notes
    assert "kubectl mii status" in notes
    assert "kubectl delete crd" in notes


def test_the_test_is_a_hook_with_one_request(render):
    pod = render(EVERYTHING).one("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    container = pod["spec"]["containers"][0]
    env = {e["name"]: e.get("value") or e["valueFrom"]["secretKeyRef"] for e in container["env"]}
    assert env == {
        "OPERATOR": "http://mii-operator.mii-system.svc:8080",
        "DEPLOYMENT": "team-a/mistral",
        "NAMESPACES": "team-a,team-b",
        "API_KEY": {"name": "keys", "key": "test"},
    }
    compile(container["command"][-1], "request.py", "exec")


def test_a_package_holds_everything(chart, tmp_path):
    archive = helm_python.package(chart, destination=tmp_path)
    helm_python.expand(tmp_path, archive)
    unpacked = tmp_path / "mii-operator"
    files = {p.relative_to(chart) for p in chart.rglob("*") if p.is_file() and p.name != ".helmignore"}
    assert files <= {p.relative_to(unpacked) for p in unpacked.rglob("*")}
