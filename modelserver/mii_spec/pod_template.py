"""Which parts of the server's pods `spec.podTemplate` may not touch, and the shape it must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mii_spec.errors import FieldError

if TYPE_CHECKING:
    from mii_spec.spec import PodTemplate

PATH = "spec.podTemplate"
CONTAINER = "server"  # the container that the overlay's `containers: [{name: server}]` merges into
OWNED_LABELS = "app.kubernetes.io/"

_METADATA = ("labels", "annotations")
_OWNED_SPEC = ("restartPolicy", "terminationGracePeriodSeconds", "hostname", "subdomain")
_OWNED_CONTAINER = {
    "command": "is the operator's",
    "args": "is the operator's; options go to spec.engine.args",
    "ports": "is the operator's",
    "lifecycle": "is the operator's; see spec.rollout.drainTimeout",
    "startupProbe": "is the operator's; see spec.rollout.startupTimeout",
    "readinessProbe": "is the operator's",
    "livenessProbe": "is the operator's",
}
_OWNED_ENV = {"HF_TOKEN": "spec.tokenSecretRef", "HF_HOME": "spec.cache"}
_OWNED_VOLUMES = {"cache": "spec.cache", "model": "spec.model"}
_NAMED = ("containers", "initContainers", "volumes", "imagePullSecrets", "env")
_LISTS = (
    "containers",
    "initContainers",
    "volumes",
    "imagePullSecrets",
    "tolerations",
    "topologySpreadConstraints",
    "hostAliases",
)
_AMOUNTS = ("limits", "requests")


def check(template: PodTemplate, resource: str) -> Iterator[FieldError]:
    """`resource` is the accelerator's, whose amounts are `spec.gpus`."""
    yield from _metadata(template.metadata)
    shape = [*_directives(f"{PATH}.spec", template.spec), *_shape(template.spec)]
    yield from shape or _spec(template.spec, resource)


def _metadata(metadata: Mapping[str, Any]) -> Iterator[FieldError]:
    for key, value in metadata.items():
        path = f"{PATH}.metadata.{key}"
        if key not in _METADATA:
            yield FieldError(path, f"may not be set; only {' and '.join(_METADATA)} may")
        elif not isinstance(value, Mapping):
            yield FieldError(path, f"must be an object, got {value!r}")
        else:
            yield from _texts(path, value)


def _texts(path: str, values: Mapping[str, Any]) -> Iterator[FieldError]:
    for key, value in values.items():
        if not isinstance(value, str):
            yield FieldError(f"{path}.{key}", f"must be a text, got {value!r}")
        elif path.endswith("labels") and key.startswith(OWNED_LABELS):
            yield FieldError(f"{path}.{key}", "is the operator's, which finds the pods by it")


def _directives(path: str, value: Any) -> Iterator[FieldError]:
    """Finds kubectl's patch directives, which would reach the API server as unknown fields."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if str(key).startswith("$"):
                yield FieldError(f"{path}.{key}", "directives are not served; null removes a field")
            yield from _directives(f"{path}.{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _directives(f"{path}[{index}]", item)


def _shape(spec: Mapping[str, Any]) -> Iterator[FieldError]:
    """Checks the kinds of what is merged or looked into; the API server checks the rest."""
    for key in _LISTS:
        yield from _list(f"{PATH}.spec.{key}", spec.get(key, []), named=key in _NAMED)
    containers = spec.get("containers", [])
    for index, container in enumerate(containers if isinstance(containers, list) else []):
        if isinstance(container, Mapping):
            yield from _container_shape(f"{PATH}.spec.containers[{index}]", container)


def _container_shape(path: str, container: Mapping[str, Any]) -> Iterator[FieldError]:
    for key in ("env", "envFrom", "volumeMounts"):
        yield from _list(f"{path}.{key}", container.get(key, []), named=key in _NAMED)
    resources = container.get("resources", {})
    amounts = resources if isinstance(resources, Mapping) else {}
    for name, value in (("", resources), *((f".{kind}", amounts.get(kind, {})) for kind in _AMOUNTS)):
        if not isinstance(value, Mapping):
            yield FieldError(f"{path}.resources{name}", f"must be an object, got {value!r}")


def _list(path: str, value: Any, *, named: bool) -> Iterator[FieldError]:
    """Requires a list of objects, each with a name where lists are merged by it."""
    if not isinstance(value, list):
        yield FieldError(path, f"must be a list, got {value!r}")
        return
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            yield FieldError(f"{path}[{index}]", f"must be an object, got {item!r}")
        elif named and not isinstance(item.get("name"), str):
            yield FieldError(f"{path}[{index}].name", "is required: these lists are merged by name")


def _spec(spec: Mapping[str, Any], resource: str) -> Iterator[FieldError]:
    for key in _OWNED_SPEC:
        if key in spec:
            yield FieldError(f"{PATH}.spec.{key}", "is the operator's")
    for index, volume in enumerate(spec.get("volumes", [])):
        if volume["name"] in _OWNED_VOLUMES:
            owner = _OWNED_VOLUMES[volume["name"]]
            yield FieldError(f"{PATH}.spec.volumes[{index}].name", f"{volume['name']} is set by {owner}")
    for index, container in enumerate(spec.get("containers", [])):
        if container["name"] == CONTAINER:
            yield from _container(f"{PATH}.spec.containers[{index}]", container, resource)


def _container(path: str, container: Mapping[str, Any], resource: str) -> Iterator[FieldError]:
    for key, why in _OWNED_CONTAINER.items():
        if key in container:
            yield FieldError(f"{path}.{key}", why)
    for index, variable in enumerate(container.get("env", [])):
        if variable["name"] in _OWNED_ENV:
            owner = _OWNED_ENV[variable["name"]]
            yield FieldError(f"{path}.env[{index}].name", f"{variable['name']} is set by {owner}")
    for kind in _AMOUNTS:
        if resource in container.get("resources", {}).get(kind, {}):
            yield FieldError(f"{path}.resources.{kind}.{resource}", "is set by spec.gpus")
