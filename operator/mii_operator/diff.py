"""Whether applying a manifest would change the object that the API server has. Pure.

Two questions, both answered from the live object alone, so that nothing has to be remembered:

* does it hold everything that the manifest says?  Defaults that the server added don't count.
* does it hold anything that an earlier manifest said and this one does not?  `managedFields` lists what this
  field manager has applied (KEP-555: "f:NAME" a field, 'k:{…}' an entry of a keyed list).
"""

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

_KEYS = ("name", "uid", "mountPath")  # that entries of lists are found by
_SUFFIXES = {"m": Decimal("0.001"), "": Decimal(1)} | {
    unit: Decimal(base**power)
    for power in range(1, 6)
    for unit, base in ((" kMGTP"[power], 1000), (" KMGTP"[power] + "i", 1024))
}


def changed(desired: Mapping[str, Any], live: Mapping[str, Any], manager: str) -> bool:
    applied = applied_fields(live, manager)
    return applied is None or not holds(live, desired) or _exceeds(applied, desired)


def applied_fields(live: Mapping[str, Any], manager: str) -> Mapping[str, Any] | None:
    """What `manager` has applied, as fieldsV1; None if nothing."""
    for entry in live["metadata"].get("managedFields", ()):
        if entry["manager"] == manager and entry["operation"] == "Apply":
            fields: Mapping[str, Any] = entry.get("fieldsV1", {})
            return fields
    return None


def holds(live: Any, desired: Any) -> bool:
    """Whether `live` says all that `desired` says."""
    if isinstance(desired, Mapping):
        return isinstance(live, Mapping) and all(_field(live, k, v) for k, v in desired.items())
    if isinstance(desired, list):
        return isinstance(live, list) and _entries(live, desired)
    return bool(live == desired) or _amount(live) == _amount(desired) is not None


def _field(live: Mapping[str, Any], key: str, desired: Any) -> bool:
    """The server drops what is empty."""
    return holds(live[key], desired) if key in live else desired in (None, "", [], {})


def _entries(live: list[Any], desired: list[Any]) -> bool:
    key = _key(desired)
    if key is None:
        return len(live) == len(desired) and all(map(holds, live, desired))
    by_key = {item.get(key): item for item in live}
    return all(item[key] in by_key and holds(by_key[item[key]], item) for item in desired)


def _key(items: list[Any]) -> str | None:
    """What tells the entries apart: the first of the usual keys that all of them have."""
    return next((k for k in _KEYS if all(isinstance(item, Mapping) and k in item for item in items)), None)


def _amount(value: Any) -> Decimal | None:
    """A Kubernetes quantity ("500m", "1Gi", 2), which the server may spell differently."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)
    digits = text.rstrip("kMGTPim")
    try:
        return Decimal(digits) * _SUFFIXES[text[len(digits) :]]
    except (InvalidOperation, KeyError):
        return None


def _exceeds(applied: Mapping[str, Any], desired: Any) -> bool:
    """Whether some applied field is not in `desired`."""
    return any(_missing(path, below, desired) for path, below in applied.items() if path != ".")


def _missing(path: str, below: Mapping[str, Any], desired: Any) -> bool:
    kind, _, name = path.partition(":")
    if kind == "f":
        return not isinstance(desired, Mapping) or name not in desired or _exceeds(below, desired[name])
    if kind == "k":
        found = [item for item in desired if holds(item, json.loads(name))]
        return not found or _exceeds(below, found[0])
    return kind == "v" and json.loads(name) not in desired
