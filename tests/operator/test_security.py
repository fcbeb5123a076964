"""Pods under the restricted Pod Security Standard; who may reach whom; what accounts may do."""

import pytest

from mii_operator.plan import plan

SPECS = [
    {},
    {"gpus": 0},
    {"gpus": 2, "cache": {"size": "1Gi"}, "model": "pvc://c/m"},
    {"gateway": {"apiKeysSecretRef": {"name": "k"}, "tlsSecretRef": {"name": "t"}}},
]
ALLOWED_VOLUMES = {"emptyDir", "persistentVolumeClaim", "secret"}  # a part of what the standard allows

OPERATOR_READS = {
    "ports": [{"protocol": "TCP", "port": 8000}],
    "from": [
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "mii-operator"}}}
    ],
}


def pods(made):
    return [c["spec"]["template"]["spec"] for c in made.children if c["kind"] == "Deployment"]


def policy(made, name):
    return next(c for c in made.children if c["kind"] == "NetworkPolicy" and c["metadata"]["name"] == name)[
        "spec"
    ]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_pods_are_restricted(deployment, facts, spec):
    found = pods(plan(deployment(**spec), facts()))
    assert len(found) == 2
    for pod in found:
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0  # numeric, as the kubelet cannot check a name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert {key for volume in pod["volumes"] for key in volume} - {"name"} <= ALLOWED_VOLUMES
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not [port for port in container["ports"] if "hostPort" in port]


def test_what_programs_write_to_is_a_volume(deployment, facts):
    server, gateway = pods(plan(deployment(), facts()))
    mounts = {m["mountPath"]: m["name"] for m in server["containers"][0]["volumeMounts"]}
    volumes = {v["name"]: v for v in server["volumes"]}
    assert set(mounts) == {"/cache", "/dev/shm", "/tmp"}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    env = {v["name"]: v.get("value") for v in server["containers"][0]["env"]}
    assert env == {"HOME": "/tmp", "HF_HOME": "/cache/huggingface"}
    assert [m["mountPath"] for m in gateway["containers"][0]["volumeMounts"]] == ["/tmp"]


def test_only_the_gateway_reaches_the_servers(deployment, facts, oldest):
    made = plan(deployment(), facts(capabilities=oldest))
    rules = policy(made, "mistral-server")["ingress"]
    gateway = next(
        c["spec"]["template"]["metadata"]["labels"]
        for c in made.children
        if c["kind"] == "Deployment" and c["metadata"]["name"] == "mistral-gateway"
    )
    assert rules[1:] == [OPERATOR_READS]
    [source] = rules[0]["from"]
    assert source.keys() == {"podSelector"}
    assert source["podSelector"]["matchLabels"].items() <= gateway.items()
    assert [p["port"] for p in rules[0]["ports"]] == [8000, 50050]


def test_probes_of_the_gateway_are_not_for_clients(deployment, facts, oldest):
    made = plan(deployment(), facts(capabilities=oldest))
    clients, operator = policy(made, "mistral-gateway")["ingress"]
    assert [port["port"] for port in clients["ports"]] == [8000, 50050]
    assert operator == {**OPERATOR_READS, "ports": [{"protocol": "TCP", "port": 8081}]}


def test_prometheus_reaches_the_metrics_where_it_is_installed(deployment, facts):
    made = plan(deployment(), facts())
    for name, port in (("mistral-server", 8000), ("mistral-gateway", 8081)):
        rule = policy(made, name)["ingress"][-1]
        assert [p["port"] for p in rule["ports"]] == [port]
        [source] = rule["from"]
        assert source["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}


def test_accounts_may_read_endpoints_and_nothing_else(deployment, facts):
    made = plan(deployment(), facts())
    [role] = [c for c in made.children if c["kind"] == "Role"]
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {
        (group, resource, verb)
        for group, resource in (("discovery.k8s.io", "endpointslices"), ("", "endpoints"))
        for verb in ("get", "list", "watch")
    }
    [binding] = [c for c in made.children if c["kind"] == "RoleBinding"]
    assert [s["name"] for s in binding["subjects"]] == ["mistral-gateway"]
    server, gateway = pods(made)
    assert (server["serviceAccountName"], gateway["serviceAccountName"]) == (
        "mistral-server",
        "mistral-gateway",
    )
    assert server["automountServiceAccountToken"] is False
