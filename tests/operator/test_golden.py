"""Whole plans as YAML, one file a case, so that every change to a manifest is seen in review.

After a change that is meant:  MII_UPDATE_GOLDEN=1 pytest tests/operator/test_golden.py
"""

import os
from typing import Any

import pytest
import yaml

from mii_operator.plan import plan

# File: the example, capabilities, GPUs a node has, facts of the cluster.
CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "mistral-mii": ("mistral-mii", "newest", 8, {"free_gpus": 4}),
    "mistral-mii-kubernetes-1.20": ("mistral-mii", "oldest", 8, {}),
    "mistral-mii-cpu": ("mistral-mii", "newest", 0, {}),
    "llama-70b-tensor-parallel": ("llama-70b-tensor-parallel", "newest", 8, {"free_gpus": 2}),
    "volume-cache": ("volume-cache", "newest", 8, {}),
    "autoscaling": ("autoscaling", "newest", 8, {}),
    "autoscaling-hpa": ("autoscaling-hpa", "newest", 8, {}),
    "gateway-keys-tls": ("gateway-keys-tls", "newest", 8, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_golden(request, root, example, facts, case):
    name, offered, gpus, cluster = CASES[case]
    made = facts(gpus, request.getfixturevalue(offered), **cluster)
    text = yaml.dump_all(plan(example(name), made).children, sort_keys=False, Dumper=_NoAliases)
    path = root / "tests/operator/golden" / f"{case}.yaml"
    if os.environ.get("MII_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_no_golden_file_is_left_over(root):
    assert {path.stem for path in (root / "tests/operator/golden").iterdir()} == set(CASES)


def test_every_example_has_a_golden_file(root):
    assert {path.stem for path in (root / "examples").glob("*.yaml")} == {name for name, *_ in CASES.values()}


class _NoAliases(yaml.SafeDumper):
    """Kubernetes manifests spell everything out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
