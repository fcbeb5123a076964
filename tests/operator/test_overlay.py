"""The merge of podTemplate."""

import pytest

from mii_operator.manifests.overlay import merge

POD = {
    "nodeSelector": {"a": "1"},
    "tolerations": [{"key": "gpu"}],
    "containers": [{"name": "server", "env": [{"name": "A", "value": "1"}], "args": ["x"]}],
    "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}],
}


@pytest.mark.parametrize(
    ("overlay", "changed"),
    [
        ({}, {}),
        ({"nodeSelector": {"b": "2"}}, {"nodeSelector": {"a": "1", "b": "2"}}),
        ({"nodeSelector": {"a": "2"}}, {"nodeSelector": {"a": "2"}}),
        ({"nodeSelector": {"a": None}}, {"nodeSelector": {}}),
        ({"priorityClassName": "high"}, {"priorityClassName": "high"}),
        ({"tolerations": [{"key": "spot"}]}, {"tolerations": [{"key": "gpu"}, {"key": "spot"}]}),
        ({"tolerations": [{"key": "gpu"}]}, {}),
        (
            {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "8Gi"}}]},
            {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}]},
        ),
        (
            {
                "volumes": [
                    {"name": "new", "emptyDir": {}},
                    {"name": "shm", "hostPath": {"path": "/x"}, "emptyDir": None},
                ]
            },
            {"volumes": [{"name": "shm", "hostPath": {"path": "/x"}}, {"name": "new", "emptyDir": {}}]},
        ),
        (
            {"containers": [{"name": "server", "args": ["y"], "env": [{"name": "B", "value": "2"}]}]},
            {
                "containers": [
                    {
                        "name": "server",
                        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                        "args": ["y"],
                    }
                ]
            },
        ),
        ({"affinity": {"nodeAffinity": {"x": [1]}}}, {"affinity": {"nodeAffinity": {"x": [1]}}}),
        ({"volumes": None}, {"volumes": ...}),
    ],
)
def test_merge(overlay, changed):
    expected = {k: v for k, v in {**POD, **changed}.items() if v is not ...}
    assert merge(POD, overlay) == expected


def test_neither_argument_changes():
    overlay = {"containers": [{"name": "server", "env": [{"name": "A", "value": "2"}]}]}
    merge(POD, overlay)
    assert POD["containers"][0]["env"] == [{"name": "A", "value": "1"}]
    assert overlay == {"containers": [{"name": "server", "env": [{"name": "A", "value": "2"}]}]}
