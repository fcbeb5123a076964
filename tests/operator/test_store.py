"""What the watches tell while a list is on its way counts for more than the list."""

import pytest

from mii_operator.store import Key, Store


def resource(name: str, version: int = 1) -> dict:
    metadata = {"namespace": "ns", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"apiVersion": "mii.dev/v1alpha1", "kind": "MIIDeployment", "metadata": metadata}


@pytest.fixture
def store() -> Store:
    """It knows a and b."""
    store = Store()
    for name in "ab":
        store.put(resource(name))
    return store


def names(store: Store) -> set[str]:
    return {key.name for key in store.resources()}


def test_a_list_adds_what_is_new_and_removes_what_is_gone(store):
    before = store.known("MIIDeployment")
    touched = store.replace("MIIDeployment", [resource("b"), resource("c", 2)], before)
    assert names(store) == {"b", "c"}
    assert touched == {Key("ns", "a"), Key("ns", "c")}


def test_what_was_created_after_the_list_stays(store):
    before = store.known("MIIDeployment")
    store.put(resource("c", 2))
    assert store.replace("MIIDeployment", [resource("a"), resource("b")], before) == set()
    assert names(store) == {"a", "b", "c"}


def test_what_was_deleted_after_the_list_does_not_come_back(store):
    before = store.known("MIIDeployment")
    store.remove(resource("a", 2))
    assert store.replace("MIIDeployment", [resource("a"), resource("b")], before) == set()
    assert names(store) == {"b"}


def test_what_has_changed_since_the_list_stays_as_it_is(store):
    before = store.known("MIIDeployment")
    store.put(resource("a", 3))
    store.replace("MIIDeployment", [resource("a", 2), resource("b")], before)
    assert store.resource(Key("ns", "a"))["metadata"]["resourceVersion"] == "3"
