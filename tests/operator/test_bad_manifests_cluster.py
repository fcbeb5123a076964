"""Every bad manifest of the specification's table, given to an API server that an operator watches."""

import json

import pytest

from ..spec.test_bad_manifests import BAD_DOCUMENTS, BAD_SPECS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CHILDREN = "deploy,svc,sa,role,rolebinding,netpol,pdb,pvc,job,pods"


def document(namespace, **change):
    """A good one but for `change`, which replaces whole parts."""
    good = {
        "apiVersion": "mii.dev/v1alpha1",
        "kind": "MIIDeployment",
        "metadata": {"name": "good"},
        "spec": {"model": "file:///model", "gpus": 0},
    }
    made = {**good, **change}
    return {**made, "metadata": {**made["metadata"], "namespace": namespace}}


def rows(namespace):
    """Each document of this kind, and the path of the field that is wrong with it."""
    for number, (spec, path, _) in enumerate(BAD_SPECS):
        metadata = {"name": f"bad-{number}"}
        yield document(namespace, metadata=metadata, spec={"model": "org/name", **spec}), path
    for number, (change, path, _) in enumerate(BAD_DOCUMENTS):
        if isinstance(change, dict) and path not in ("apiVersion", "kind"):
            yield document(namespace, **{"metadata": {"name": f"worse-{number}"}, **change}), path


def sayable(manifest):
    """Whether JSON has a way to write it: it has none for NaN."""
    try:
        return json.dumps(manifest, allow_nan=False)
    except ValueError:
        return False


def test_bad_manifests_are_refused_by_name_and_make_nothing(cluster, namespace, start):
    operator = start()
    given = [(manifest, path) for manifest, path in rows(namespace) if sayable(manifest)]
    complaints = [cluster.apply(manifest, check=False) for manifest, _ in given]
    stored = {item["metadata"]["name"] for item in cluster.get(namespace, "mii")}
    paths = {manifest["metadata"].get("name"): path for manifest, path in given}
    assert len(given) > 100
    assert stored < paths.keys()

    refusals = {
        complaint: path
        for (manifest, path), complaint in zip(given, complaints, strict=True)
        if manifest["metadata"].get("name") not in stored
    }
    assert [complaint for complaint, path in refusals.items() if field(path) not in complaint] == []
    judged = cluster.wait(lambda: judgements(cluster, namespace, stored, operator), 120)
    assert [(name, words) for name, words in judged.items() if paths[name] not in words] == []
    assert [child["metadata"]["name"] for child in cluster.get(namespace, CHILDREN)] == ["default"]

    assert operator.leads
    cluster.apply(document(namespace))
    cluster.wait(lambda: cluster.get(namespace, "mii", "good").get("status", {}).get("summary") == "1/1")


def field(path):
    """The last name of a path, which is all that every version of the API server says."""
    return path.rpartition(".")[2].partition("[")[0]


def judgements(cluster, namespace, names, operator):
    """What the operator says against each of them; None until it has judged them all."""
    assert operator.process.poll() is None, operator.log
    accepted = {
        item["metadata"]["name"]: condition
        for item in cluster.get(namespace, "mii")
        for condition in item.get("status", {}).get("conditions", ())
        if condition["type"] == "Accepted"
    }
    assert {condition["reason"] for condition in accepted.values()} <= {"InvalidSpec"}
    return {name: accepted[name]["message"] for name in names} if accepted.keys() == names else None
