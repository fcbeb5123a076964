"""What `mii up` refuses, and what it runs with."""

import pytest

from mii_operator.local import local_facts, local_refusals, unused_fields
from mii_operator.plan import plan
from mii_spec.sizing import GIB


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"model": "pvc://claim/x"}, "spec.model"),
        ({"gpus": 2}, "spec.gpus"),
        ({"tensorParallel": 2}, "spec.gpus"),
        ({"tokenSecretRef": {"name": "hf", "key": "token"}}, "spec.tokenSecretRef"),
        ({"gateway": {"apiKeysSecretRef": {"name": "k"}}}, "spec.gateway.apiKeysSecretRef"),
        ({"gateway": {"tlsSecretRef": {"name": "t"}}}, "spec.gateway.tlsSecretRef"),
        ({"autoscaling": {"min": 1, "max": 2}}, "spec.autoscaling"),
        ({"replicas": 9}, "spec.replicas"),
    ],
)
def test_what_needs_a_cluster_is_refused_by_name(deployment, spec, field):
    [refusal] = local_refusals(deployment(**spec), gpus=1, cores=2)
    assert refusal.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("spec", "unused"),
    [
        ({}, []),
        ({"gpus": 0}, []),
        ({"gpus": 1}, []),
        ({"tensorParallel": 1}, []),
        ({"gpus": 0, "tensorParallel": 3}, []),
        (
            {"replicas": 8, "cache": {"claimName": "c"}, "podTemplate": {"spec": {"nodeSelector": {}}}},
            ["spec.cache", "spec.podTemplate"],
        ),
        (
            {"gateway": {"replicas": 2}, "rollout": {"strategy": "surge"}},
            ["spec.gateway.replicas", "spec.rollout.strategy"],
        ),
        ({"gateway": {"replicas": 1}, "rollout": {"strategy": "auto"}}, []),
    ],
)
def test_the_rest_is_not_but_it_is_said_what_has_no_use(deployment, spec, unused):
    assert local_refusals(deployment(**spec), gpus=1, cores=2) == []
    assert unused_fields(deployment(**spec)) == unused


def test_all_refusals_at_once(deployment):
    spec = {"gpus": 1, "model": "pvc://c/x", "autoscaling": {"min": 1, "max": 2}}
    assert len(local_refusals(deployment(**spec))) == 3


@pytest.mark.parametrize(
    ("gpus", "memory", "spec", "expected"),
    [
        (0, None, {}, 0),
        (0, None, {"tensorParallel": 1}, 0),
        (2, None, {}, 1),
        (2, 80 * GIB, {"gpus": 2}, 2),
        (2, 80 * GIB, {"gpus": 0}, 0),
    ],
)
def test_gpus_of_this_machine(deployment, gpus, memory, spec, expected):
    made = plan(deployment(**spec), local_facts(gpus=gpus, gpu_memory=memory))
    assert made.choice.gpus == expected
    assert ("--device=cuda" in made.server["args"]) == (expected > 0)
