"""What counts as a difference between a manifest and the live object."""

import pytest

from mii_operator.diff import changed, holds

MANAGER = "mii-operator"


def live(item, fields, manager=MANAGER, operation="Apply"):
    entry = {"manager": manager, "operation": operation, "fieldsV1": fields}
    return {**item, "metadata": {**item.get("metadata", {}), "managedFields": [entry]}}


@pytest.mark.parametrize(
    ("found", "desired", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": {}}, True),
        ({}, {"a": [], "b": "", "c": None}, True),
        ({}, {"a": 0}, False),
        ({"a": {"b": 1, "c": 1}}, {"a": {"b": 1}}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"name": "y"}, {"name": "x", "z": 1}]}, {"a": [{"name": "x"}]}, True),
        ({"a": [{"name": "y"}]}, {"a": [{"name": "x"}]}, False),
        ({"a": [{"key": "x", "more": 1}]}, {"a": [{"key": "x"}]}, True),
        ({"cpu": "500m"}, {"cpu": "0.5"}, True),
        ({"memory": "1Gi"}, {"memory": "1024Mi"}, True),
        ({"cpu": "1"}, {"cpu": 1}, True),
        ({"cpu": "500m"}, {"cpu": "0.4"}, False),
        ({"name": "a"}, {"name": "b"}, False),
        ({"flag": True}, {"flag": 1}, True),
        ({"flag": "true"}, {"flag": True}, False),
    ],
    ids=str,
)
def test_holds(found, desired, same):
    assert holds(found, desired) is same


def test_what_nobody_applied_has_to_be():
    assert changed({"a": 1}, {"a": 1, "metadata": {}}, MANAGER)
    assert changed({"a": 1}, live({"a": 1}, {"f:a": {}}, manager="kubectl"), MANAGER)
    assert changed({"a": 1}, live({"a": 1}, {"f:a": {}}, operation="Update"), MANAGER)
    assert not changed({"a": 1}, live({"a": 1}, {"f:a": {}}), MANAGER)


def test_defaults_of_the_server_are_no_difference():
    assert not changed({"a": 1}, live({"a": 1, "default": 2}, {"f:a": {}}), MANAGER)


def test_a_field_that_is_not_wanted_any_more():
    found = live({"a": 1, "b": {"c": 1}}, {"f:a": {}, "f:b": {".": {}, "f:c": {}}})
    assert changed({"a": 1, "b": {}}, found, MANAGER)
    assert not changed({"a": 1, "b": {"c": 1}}, found, MANAGER)


def test_an_entry_that_is_not_wanted_any_more():
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    fields = {"f:env": {'k:{"name":"A"}': {".": {}, "f:value": {}}, 'k:{"name":"B"}': {".": {}}}}
    assert changed({"env": env[:1]}, live({"env": env}, fields), MANAGER)
    assert not changed({"env": env}, live({"env": env}, fields), MANAGER)
