"""Values: every one documented, in the schema and in the README; wrong ones refused with their names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import helm_python
import pytest
import yaml

SCALARS = (str, int, float, bool, type(None), list)


class Value(NamedTuple):
    path: str
    default: Any
    text: str


def documented(chart: Path) -> list[Value]:
    """Keys of values.yaml with a comment `# --` above them, with its text."""
    text = (chart / "values.yaml").read_text()
    return [Value(path, at(yaml.safe_load(text), path), comment) for path, comment in _comments(text)]


def _comments(text: str) -> Iterator[tuple[str, str]]:
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        said = re.fullmatch(r"\s*# (-- )?(.*)", line)
        if said:
            comment = [said[2]] if said[1] else [*comment, said[2]]
            continue
        key = re.match(r"(\s*)(\w+):", line)
        if key:
            parents = [*((i, k) for i, k in parents if i < len(key[1])), (len(key[1]), key[2])]
            if comment:
                yield ".".join(k for _, k in parents), " ".join(comment)
        comment = []


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def leaves(values: Any, path: str = "") -> Iterator[str]:
    if isinstance(values, SCALARS) or not values:
        yield path
        return
    for key, value in values.items():
        yield from leaves(value, f"{path}.{key}" if path else key)


def table(chart: Path) -> str:
    rows = [f"| `{v.path}` | `{json.dumps(v.default)}` | {v.text} |" for v in documented(chart)]
    return "\n".join(["| Value | Default | |", "| --- | --- | --- |", *rows])


def test_every_value_is_documented(chart):
    known = {value.path for value in documented(chart)}
    for leaf in leaves(yaml.safe_load((chart / "values.yaml").read_text())):
        parts = leaf.split(".")
        prefixes = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        assert prefixes & known, f"{leaf} has no line `# --`"


def test_the_readme_has_them_all(chart):
    assert table(chart) in (chart / "README.md").read_text(), f"README.md lacks\n\n{table(chart)}\n"


def test_the_schema_knows_every_value_and_no_other(chart):
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())

    def compare(values: Any, schema: Any, path: str) -> None:
        if "properties" not in schema:
            return
        assert schema["additionalProperties"] is False, path
        assert set(values) == set(schema["properties"]) - {"global"}, path
        for key, value in values.items():
            compare(value, schema["properties"][key], f"{path}.{key}")

    compare(values, schema, "")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 1}, "replica"),
        ({"replicas": -1}, "replicas"),
        ({"replicas": "2"}, "replicas"),
        ({"watchNamespaces": "prod"}, "watchNamespaces"),
        ({"watchNamespaces": ["Prod"]}, "watchNamespaces"),
        ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
        ({"fullnameOverride": "Mii"}, "fullnameOverride"),
        ({"images": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"images": {"registry": ""}}, "registry"),
        ({"images": {"registry": "https://registry.example/"}}, "registry"),
        ({"images": {"tag": "a b"}}, "tag"),
        ({"images": {"repository": "x"}}, "repository"),
        ({"images": {"pullSecrets": [{"name": "x"}]}}, "pullSecrets"),
        ({"crds": {"keep": "yes"}}, "keep"),
        ({"serviceAccount": {"annotations": {"a": 1}}}, "annotations"),
        ({"rbac": {"clusterAdmin": True}}, "clusterAdmin"),
        ({"extraArgs": "--debug"}, "extraArgs"),
        ({"extraArgs": ["debug"]}, "extraArgs"),
        ({"resources": {"limits": {"memory": "lots"}}}, "resources"),
        ({"resources": {"limit": {}}}, "limit"),
        ({"nodeSelector": {"a": True}}, "nodeSelector"),
        ({"tolerations": {"key": "a"}}, "tolerations"),
        ({"networkPolicy": {"metricsFrom": [{}]}}, "metricsFrom"),
        ({"metrics": {"serviceMonitor": {"interval": "30"}}}, "interval"),
        ({"metrics": {"dashboard": True}}, "dashboard"),
        ({"test": {"deployment": "mistral"}}, "deployment"),
        ({"test": {"apiKeySecret": {"name": "keys"}}}, "apiKeySecret"),
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_name(render_text, values, named):
    with pytest.raises(helm_python.HelmError, match=named):
        render_text(values)
