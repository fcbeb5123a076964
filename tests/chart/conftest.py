"""The chart, rendered by Helm's own library as Helm renders it for a cluster of some version."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from helm_python import _native

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/mii-operator"
NEWEST = "v1.33.0"

Object = dict[str, Any]


class Manifests(list[Object]):
    """What a release consists of."""

    def one(self, kind: str, name: str | None = None) -> Object:
        found = self.all(kind, name)
        assert len(found) == 1, [(o["kind"], o["metadata"]["name"]) for o in self]
        return found[0]

    def all(self, kind: str, name: str | None = None) -> list[Object]:
        return [o for o in self if o["kind"] == kind and name in (None, o["metadata"]["name"])]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def chart() -> Path:
    return CHART


@pytest.fixture(scope="session")
def render_text() -> Iterator[Callable[..., dict[str, str]]]:
    """render_text(values, kube=, apis=): path to text. Raises HelmError as `helm template` fails."""
    with helm_python.Chart.load(CHART) as loaded:

        def render(
            values: Object | None = None, *, kube: str = NEWEST, apis: tuple[str, ...] = ()
        ) -> dict[str, str]:
            options = {"kube_version": kube, "api_versions": apis, "name": "mii", "namespace": "mii-system"}
            # Chart.render() does not pass the cluster's version on; the library under it takes it.
            reply = _native.call_string(
                "helm_render", loaded._raw(), json.dumps(values or {}), json.dumps(options)
            )
            return json.loads(reply)

        yield render


@pytest.fixture(scope="session")
def render(render_text) -> Callable[..., Manifests]:
    """render(values, kube=, apis=): the objects, the test's pod among them."""

    def render(values: Object | None = None, **cluster: Any) -> Manifests:
        files = render_text(values, **cluster)
        texts = (text for path, text in files.items() if not path.endswith(".txt"))
        return Manifests(o for text in texts for o in yaml.safe_load_all(text) if o)

    return render
