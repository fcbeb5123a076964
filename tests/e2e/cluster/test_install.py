"""The README's path from `helm install` to `helm uninstall`; what is deleted leaves nothing behind."""

import pytest

from .client import Client
from .deployment import Deployment
from .kube import everything, kubectl, wait_for
from .release import CRD

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

# On the CPU, as what the nodes have of GPUs need not be real.
FIVE_LINES = """
apiVersion: mii.dev/v1alpha1
kind: MIIDeployment
metadata: {name: smollm2}
spec:
  {model: file:///models/smollm2.gguf, gpus: 0}
"""


@pytest.fixture
def five_lines(own_release):
    """Installs the chart, applies the manifest and waits; what the namespace had of others before, and it."""
    own_release.install()
    kubectl("rollout", "status", "deployment/mii-operator", "-n", own_release.namespace, "--timeout=300s")
    before = everything(own_release.namespace)
    kubectl("apply", "-n", own_release.namespace, "-f", "-", text=FIVE_LINES)
    kubectl("wait", "-n", own_release.namespace, "--for=condition=Ready", "mii/smollm2", "--timeout=300s")
    return before, Deployment(own_release.namespace, "smollm2")


def test_five_lines_become_a_model_that_answers_other_pods(five_lines, own_release):
    before, deployment = five_lines
    client = Client(own_release.namespace)
    client.start()
    answers = client.answers(deployment.name)
    said = answers["HTTP"]
    assert "Paris" in said
    assert answers["REST"] == answers["gRPC"] == said
    for way in ("HTTP stream", "gRPC stream"):
        assert "".join(answers[way]) == said
        assert len([piece for piece in answers[way] if piece]) > 1
    own_release.test()
    client.end()

    deployment.kubectl("delete", "mii", deployment.name)
    wait_for(lambda: everything(own_release.namespace) == before, "nothing is left of it")


def test_what_is_deleted_leaves_nothing_though_the_operator_is_dead(five_lines, own_release):
    before, deployment = five_lines
    cached = Deployment(own_release.namespace, "cached")
    cached.apply(model="org/model", gpus=0, cache={"size": "1Gi"})
    wait_for(lambda: cached.pods("fetch"), "its download's Job")
    assert f"persistentvolumeclaim/{cached.name}-cache" in everything(own_release.namespace)

    deployment.kubectl("scale", "deployment/mii-operator", "--replicas=0")
    operator = ("get", "pods", "-l", "app.kubernetes.io/name=mii-operator", "-o", "name")
    wait_for(lambda: not deployment.kubectl(*operator), "the operator is gone")
    deployment.kubectl("delete", "mii", deployment.name, cached.name)
    without_operator = {name for name in before if not name.startswith("pod/mii-operator")}
    wait_for(lambda: everything(own_release.namespace) == without_operator, "nothing is left of either")

    own_release.uninstall()
    wait_for(lambda: everything(own_release.namespace) == set(), "nothing is left of the release")
    assert own_release.cluster_objects() == set()
    assert kubectl("get", "crd", CRD, "-o", "name") == f"customresourcedefinition.apiextensions.k8s.io/{CRD}"
