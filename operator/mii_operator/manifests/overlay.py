"""The merge of `spec.podTemplate` over a pod template, as kubectl merges (strategic merge).

Objects merge key by key and null removes a key. Lists with a merge key merge entry by entry, new entries go
to the end. Tolerations add up. Other lists are replaced. Amounts of resources become text (cpu: 8 is "8"),
as older API servers take nothing else in server-side apply.
"""

from collections.abc import Mapping
from typing import Any

# Kubernetes' patchMergeKey of the lists in a pod.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_AMOUNTS = ("limits", "requests")


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """A new object; neither argument is changed."""
    merged = dict(base)
    for key, value in overlay.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_value(key, merged.get(key), value)
    return merged


def _merge_value(key: str, base: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        merged = merge(base if isinstance(base, Mapping) else {}, value)
        return {k: str(v) for k, v in merged.items()} if key in _AMOUNTS else merged
    if isinstance(value, list) and isinstance(base, list):
        if key in _MERGE_KEYS:
            return _merge_list(base, value, _MERGE_KEYS[key])
        if key == "tolerations":
            return base + [item for item in value if item not in base]
    return value


def _merge_list(base: list[Any], overlay: list[Any], key: str) -> list[Any]:
    """Entries of `base` in their order, each with its namesake merged in, then the new ones."""
    changes = {item.get(key): item for item in overlay}
    kept = [merge(item, changes.pop(item[key], {})) for item in base]
    return kept + [item for item in overlay if item.get(key) in changes]
