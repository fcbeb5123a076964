"""All that each ServiceAccount may do in its namespace, as the API server lists it."""

import json

import pytest

from .conftest import NAME
from .kube import kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

READ = "get list watch"
OWN = "create delete get list patch watch"
ALLOWED = {
    "mii-operator": {
        "mii.dev/miideployments": READ,
        "mii.dev/miideployments/status": "patch",
        "mii.dev/miideployments/finalizers": "update",
        "apps/deployments": OWN,
        "services": OWN,
        "serviceaccounts": OWN,
        "persistentvolumeclaims": OWN,
        "batch/jobs": OWN,
        "networking.k8s.io/networkpolicies": OWN,
        "policy/poddisruptionbudgets": OWN,
        "autoscaling/horizontalpodautoscalers": OWN,
        "rbac.authorization.k8s.io/roles": OWN,
        "rbac.authorization.k8s.io/rolebindings": OWN,
        "monitoring.coreos.com/servicemonitors": OWN,
        "discovery.k8s.io/endpointslices": READ,
        "endpoints": READ,
        "pods": "list watch",
        "pods/log": "get",
        "events": "create",
        "secrets": "get",
        "coordination.k8s.io/leases mii-operator": "get update",
    },
    f"{NAME}-gateway": {"discovery.k8s.io/endpointslices": READ, "endpoints": READ},
    f"{NAME}-server": {},
}
# What every authenticated user may: ask what he may, and who he is.
EVERYONE = {"authorization.k8s.io", "authentication.k8s.io"}


@pytest.mark.parametrize("account", ALLOWED)
def test_an_account_can_do_no_more_than_its_table(deployment, account):
    assert rules(deployment.namespace, account) == ALLOWED[account]


@pytest.mark.parametrize("account", ALLOWED)
def test_an_account_can_do_nothing_elsewhere(deployment, account):
    user = f"system:serviceaccount:{deployment.namespace}:{account}"
    for verb, resource in (("get", "secrets"), ("list", "pods"), ("create", "deployments.apps"), ("*", "*")):
        for where in (["-n", "kube-system"], ["-A"]):
            said = kubectl("auth", "can-i", verb, resource, f"--as={user}", *where, check=False)
            assert said.split()[0] == "no", (account, verb, resource, where)


def rules(namespace, account):
    """Resource, with a name where the rule has one, to its verbs."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    user = f"--as=system:serviceaccount:{namespace}:{account}"
    said = json.loads(kubectl("create", user, "-o", "json", "-f", "-", manifest=review))
    assert not said["status"].get("evaluationError")
    found = {}
    for rule in said["status"]["resourceRules"]:
        for group in set(rule["apiGroups"]) - EVERYONE:
            for resource in rule["resources"]:
                name = " ".join([f"{group}/{resource}".lstrip("/"), *rule.get("resourceNames", [])])
                found.setdefault(name, set()).update(rule["verbs"])
    return {name: " ".join(sorted(verbs)) for name, verbs in found.items()}
