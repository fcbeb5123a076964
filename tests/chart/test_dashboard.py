"""The dashboard asks for metrics that our programs have, under labels that they carry."""

import json
import re
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mii.server.metrics import Metrics as ServerMetrics
from mii_gateway.metrics import Metrics as GatewayMetrics
from mii_operator.manifests.autoscaler import METRIC
from mii_operator.metrics import Metrics as OperatorMetrics

SCRAPED = {"namespace", "service", "pod", "job", "instance", "le"}  # labels that Prometheus adds


@pytest.fixture(scope="module")
def dashboard(chart):
    return json.loads((chart / "files/dashboard.json").read_text())


@pytest.fixture(scope="module")
def metrics():
    """Name to labels, of everything that the three programs expose."""
    server = ServerMetrics("model").render("text/plain")[0].decode()
    gateway = GatewayMetrics(SimpleNamespace(all=list, count=lambda: _Zero()), [])
    gateway.requests.labels("200", "http")
    gateway.retries.labels("refused")
    gateway.key_output_tokens.labels("alice")
    operator = OperatorMetrics(lambda: [{}])
    operator.request("get", "Pod", 200)
    # Of no replica, so not in the text.
    found = {name: {"replica"} for name in ("mii_gateway_in_flight", "mii_gateway_utilization")}
    for text in (server, gateway.exposition().decode(), operator.exposition().decode()):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


class _Zero(dict):
    def __missing__(self, key):
        return 0


def queries(dashboard):
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def names(query):
    return re.findall(r"\bmii[:_][a-z0-9_:]+", query)


def test_every_metric_exists(dashboard, metrics):
    asked = {name for query in queries(dashboard) for name in names(query)}
    assert asked <= set(metrics), asked - set(metrics)
    assert {name.split("_")[0].split(":")[0] for name in asked} == {"mii"}
    assert {"mii_gateway_requests_total", "mii:generation_tokens_total", "mii_operator_leader"} <= asked


def test_every_label_is_on_its_metrics(dashboard, metrics):
    for query in queries(dashboard):
        labels = set(re.findall(r"by \(([^)]*)\)", query.replace(" ", "").replace("by(", "by (")))
        wanted = {label for group in labels for label in group.split(",")} - SCRAPED
        for name in names(query):
            assert wanted <= metrics[name], query


@pytest.fixture(scope="module")
def alerts(root):
    """The example rules of docs/operations.md."""
    blocks = re.findall(r"```yaml\n(.*?)```", (root / "docs/operations.md").read_text(), re.DOTALL)
    [rule] = [doc for doc in map(yaml.safe_load, blocks) if doc.get("kind") == "PrometheusRule"]
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


def test_alerts_ask_for_metrics_and_labels_that_there_are(alerts, metrics):
    assert len({alert["alert"] for alert in alerts}) == len(alerts) > 5
    for alert in alerts:
        asked = re.findall(r"\b(mii[:_][a-z0-9_:]+)(?:\{([^}]*)\})?", alert["expr"])
        grouped = {label for by in re.findall(r"by \(([^)]*)\)", alert["expr"]) for label in by.split(", ")}
        assert asked
        for name, selector in asked:
            labels = grouped | set(re.findall(r"(\w+)[!=]", selector))
            assert labels - SCRAPED <= metrics[name], alert["alert"]


def test_the_metric_of_an_hpa_is_the_one_that_the_adapters_rule_names(root, metrics):
    assert METRIC in metrics
    assert f'seriesQuery: {METRIC}{{namespace!="", service!=""}}' in (root / "docs/operations.md").read_text()


def test_panels_have_titles_queries_and_room(dashboard):
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(panel["title"] and panel["targets"] for panel in panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in dashboard["panels"])


def test_it_is_loaded_by_grafanas_sidecar(dashboard, render):
    made = render({"metrics": {"dashboard": {"enabled": True}}}).one("ConfigMap")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(made["data"]["mii.json"]) == dashboard
    assert not render().all("ConfigMap")
