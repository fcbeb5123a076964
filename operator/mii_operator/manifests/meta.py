"""Names, labels and owner of every object."""

from typing import Any

from mii_operator import constants
from mii_spec.spec import MIIDeployment

Manifest = dict[str, Any]


def build(api_version: str, kind: str, metadata: Manifest, **rest: Any) -> Manifest:
    """An object; `rest` are its other top-level fields."""
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def metadata(deployment: MIIDeployment, component: str, *, name: str | None = None) -> Manifest:
    """Of an object of this component, named NAME-component unless told otherwise."""
    return {
        "name": name or component_name(deployment, component),
        "namespace": deployment.metadata.namespace,
        "labels": labels(deployment, component),
        "ownerReferences": [owner(deployment)],
    }


def component_name(deployment: MIIDeployment, component: str) -> str:
    return f"{deployment.metadata.name}-{component}"


def labels(deployment: MIIDeployment, component: str) -> dict[str, str]:
    return {
        **selector(deployment, component),
        "app.kubernetes.io/managed-by": constants.MANAGED_BY,
        "app.kubernetes.io/part-of": "mii",
    }


def selector(deployment: MIIDeployment, component: str) -> dict[str, str]:
    """The labels that never change, by which pods are found."""
    return {
        "app.kubernetes.io/name": "mii",
        "app.kubernetes.io/instance": deployment.metadata.name,
        "app.kubernetes.io/component": component,
    }


def owner(deployment: MIIDeployment) -> Manifest:
    """Deleting the MIIDeployment deletes what names it here, without the operator's help."""
    assert deployment.metadata.uid, "only an object that the API server has stored can own others"
    return {
        "apiVersion": constants.API_VERSION,
        "kind": constants.KIND,
        "name": deployment.metadata.name,
        "uid": deployment.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
