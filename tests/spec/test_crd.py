"""The custom resource definition and the Python types say the same, in both directions."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import celpy
import jsonschema
import pytest
import yaml
from celpy.celtypes import BoolType
from pydantic import TypeAdapter

from mii_spec.quantities import DURATION_PATTERN, parse_duration
from mii_spec.spec import GROUP, KIND, PLURAL, VERSION, Spec, SpecError, parse
from mii_spec.status import Status

Node = dict[str, Any]
KEPT = (
    "type",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "minLength",
    "maxLength",
)
KEPT += ("minItems", "maxItems")


def of_types(node: Node, definitions: Node) -> Node:
    """A pydantic JSON schema in the comparable form."""
    node = resolve(node, definitions)
    branches = [b for b in node.get("anyOf", []) if b != {"type": "null"}]
    if len(branches) == 1:
        return of_types({**branches[0], "default": node.get("default")}, definitions)
    if branches:
        integer, text = branches
        node = {**node, **integer, "pattern": text["pattern"], "type": "int-or-string"}
    return form(node, of_types, definitions)


def of_crd(node: Node, _: Node) -> Node:
    """An OpenAPI schema of the CRD in the comparable form."""
    if node.get("x-kubernetes-int-or-string"):
        assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}]
        node = {**node, "type": "int-or-string"}
    if node.get("exclusiveMinimum") is True:
        node = {k: v for k, v in node.items() if k != "minimum"} | {"exclusiveMinimum": node["minimum"]}
    return form(node, of_crd, {})


def form(node: Node, recurse: Any, definitions: Node) -> Node:
    result = {key: node[key] for key in KEPT if key in node}
    if "const" in node:
        result["enum"] = [node["const"]]
    if "items" in node:
        result["items"] = recurse(node["items"], definitions)
    if "properties" in node:
        result["properties"] = {k: recurse(v, definitions) for k, v in node["properties"].items()}
        result["required"] = sorted(node.get("required", []))
    if (default := comparable_default(node)) is not None:
        result["default"] = default
    return result


def comparable_default(node: Node) -> Any:
    """None when there is none. An object's is {}, as its fields have their own; an empty text is none."""
    default = node.get("default")
    if default in (None, ""):
        return None
    if node.get("type") == "object":
        return {}
    return duration(default) if node.get("pattern") == DURATION_PATTERN else default


def duration(default: str) -> timedelta:
    """pydantic writes a default as ISO 8601 (PT1M), the CRD as manifests do (60s)."""
    iso = default.startswith("P")
    return TypeAdapter(timedelta).validate_python(default) if iso else parse_duration(default)


def resolve(node: Node, definitions: Node) -> Node:
    """Follows $ref; pydantic wraps one with a default into {$ref, default}."""
    if "$ref" not in node:
        return node
    target = definitions[node["$ref"].rpartition("/")[2]]
    return {**target, **{k: v for k, v in node.items() if k != "$ref"}}


@pytest.mark.parametrize(("part", "model"), [("spec", Spec), ("status", Status)])
def test_fields_types_defaults_and_bounds_agree(crd_schema, part, model):
    schema = model.model_json_schema(by_alias=True)
    assert of_types(schema, schema.get("$defs", {})) == of_crd(crd_schema["properties"][part], {})


def test_a_missing_bound_would_be_noticed(crd_schema):
    """The comparison itself: one changed bound anywhere makes the two differ."""
    schema = Spec.model_json_schema(by_alias=True)
    changed = yaml.safe_load(yaml.safe_dump(crd_schema["properties"]["spec"]))
    changed["properties"]["gateway"]["properties"]["queue"]["properties"]["maxRequests"]["maximum"] -= 1
    assert of_types(schema, schema["$defs"]) != of_crd(changed, {})


def test_names_agree(crd):
    spec = crd["spec"]
    assert (spec["group"], spec["names"]["kind"], spec["names"]["plural"]) == (GROUP, KIND, PLURAL)
    assert [version["name"] for version in spec["versions"]] == [VERSION]
    assert crd["metadata"]["name"] == f"{PLURAL}.{GROUP}"


def test_every_field_is_described(crd_schema):
    undescribed = [path for path, node in nodes(crd_schema) if not node.get("description")]
    assert undescribed == ["metadata", "status.conditions[]"]


def test_null_is_allowed_where_the_types_allow_an_object_or_none(crd_schema):
    nullable = {path for path, node in nodes(crd_schema) if node.get("nullable")}
    assert nullable == {
        "spec.tokenSecretRef",
        "spec.autoscaling",
        "spec.gateway.apiKeysSecretRef",
        "spec.gateway.tlsSecretRef",
    }


def test_examples_fit_the_schema(examples, json_schema):
    validator = jsonschema.Draft202012Validator(json_schema)
    for name, document in examples.items():
        assert [e.message for e in validator.iter_errors(document)] == [], name


def test_printer_columns_and_subresources(crd):
    version = crd["spec"]["versions"][0]
    columns = version["additionalPrinterColumns"]
    assert [c["name"] for c in columns if not c.get("priority")] == ["Model", "TP", "Ready", "Reason", "Age"]
    assert [c["name"] for c in columns if c.get("priority")] == ["URL", "Device"]
    assert set(version["subresources"]) == {"status", "scale"}


# Documents that the schema alone accepts, and whether the rules between fields do.
RULED = [
    ({}, True),
    ({"revision": "v2"}, True),
    ({"model": "pvc://c/x", "revision": "v2"}, False),
    ({"gpus": 0, "tensorParallel": 1}, True),
    ({"gpus": 0, "tensorParallel": 2}, True),
    ({"gpus": 4, "tensorParallel": 4}, True),
    ({"gpus": 4, "tensorParallel": 2}, False),
    ({"gpus": "auto", "tensorParallel": 2}, True),
    ({"gpus": 4, "tensorParallel": "auto"}, True),
    ({"cache": {"size": "1Gi", "storageClassName": "fast"}}, True),
    ({"cache": {"size": "1Gi", "claimName": "c"}}, False),
    ({"cache": {"storageClassName": "fast"}}, False),
    ({"autoscaling": None}, True),
    ({"autoscaling": {"min": 1, "max": 2}}, True),
    ({"autoscaling": {"min": 3, "max": 2}}, False),
    ({"autoscaling": {"min": 0, "max": 2}}, False),
    ({"autoscaling": {"min": 0, "max": 2, "idleAfter": "1h"}}, True),
    ({"autoscaling": {"min": 1, "max": 2, "idleAfter": "1h"}}, False),
    ({"autoscaling": {"min": 0, "max": 2, "idleAfter": "59s"}}, False),
    ({"autoscaling": {"by": "hpa", "min": 1, "max": 2}}, True),
    ({"autoscaling": {"by": "hpa", "min": 0, "max": 2, "idleAfter": "1h"}}, False),
    ({"gateway": {"queue": {"timeout": "99ms"}}}, False),
    ({"gateway": {"queue": {"timeout": "1h"}}}, True),
    ({"rollout": {"drainTimeout": "0s", "startupTimeout": "24h"}}, True),
    ({"rollout": {"drainTimeout": "61m"}}, False),
    ({"rollout": {"startupTimeout": "9s"}}, False),
]


@pytest.mark.parametrize(("spec", "valid"), RULED, ids=str)
def test_cel_rules_say_what_the_types_say(manifest, crd_schema, json_schema, spec, valid):
    document = manifest(**spec)
    jsonschema.validate(document, json_schema)
    assert (broken_rules(crd_schema, defaulted(crd_schema, document)) == []) == valid
    assert accepted(document) == valid


@pytest.mark.parametrize("name", ["mistral", "Mistral", "7b", "a.b", "a" * 50, "a" * 51, "a-"])
def test_cel_checks_the_name_as_the_types_do(manifest, crd_schema, name):
    document = {**manifest(), "metadata": {"name": name}}
    assert (broken_rules(crd_schema, defaulted(crd_schema, document)) == []) == accepted(document)


def accepted(document: Node) -> bool:
    try:
        parse(document)
    except SpecError:
        return False
    return True


def defaulted(schema: Node, value: Any) -> Any:
    """As the API server fills in defaults, outermost first."""
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    value = {**{k: f["default"] for k, f in fields.items() if "default" in f}, **value}
    return {k: defaulted(fields.get(k, {}), v) for k, v in value.items()}


def broken_rules(schema: Node, value: Any) -> list[str]:
    """As the API server evaluates CEL: at every value that is there and not null."""
    if value is None:
        return []
    broken = [
        rule["message"]
        for rule in schema.get("x-kubernetes-validations", [])
        if not holds(rule["rule"], value)
    ]
    for name, field in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            broken += broken_rules(field, value[name])
    return broken


def holds(rule: str, value: Any) -> bool:
    environment = celpy.Environment()
    program = environment.program(environment.compile(rule))
    return program.evaluate({"self": celpy.json_to_cel(value)}) == BoolType(True)


def nodes(schema: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}".removeprefix("."))
    if schema.get("items", {}).get("properties"):
        yield from nodes(schema["items"], f"{path}[]")
