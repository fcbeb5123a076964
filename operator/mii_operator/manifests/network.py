"""Services and who may talk to whom."""

from typing import Any

from mii_operator import constants
from mii_operator.facts import Cluster
from mii_operator.manifests import meta
from mii_operator.manifests.meta import Manifest
from mii_spec.spec import MIIDeployment

# Pods that the Prometheus operator runs, in any namespace.
_PROMETHEUS = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
}
# The operator's pods, in any namespace: they ask what replicas are, and how busy gateways are.
_OPERATOR = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": constants.MANAGED_BY}},
}


def objects(deployment: MIIDeployment, cluster: Cluster) -> list[Manifest]:
    """The clients' Service, the headless one for discovery, and a NetworkPolicy for each component."""
    return [
        _service(deployment, constants.GATEWAY, deployment.metadata.name, constants.SERVICE_HTTP_PORT),
        _service(deployment, constants.SERVER, None, constants.HTTP_PORT, clusterIP="None"),
        _server_policy(deployment, cluster),
        _gateway_policy(deployment, cluster),
    ]


def _service(
    deployment: MIIDeployment, component: str, name: str | None, http_port: int, **spec: Any
) -> Manifest:
    return meta.build(
        "v1",
        "Service",
        meta.metadata(deployment, component, name=name),
        spec={
            **spec,
            "selector": meta.selector(deployment, component),
            "ports": [
                {"name": "http", "port": http_port, "targetPort": "http", "protocol": "TCP"},
                {"name": "grpc", "port": constants.GRPC_PORT, "targetPort": "grpc", "protocol": "TCP"},
            ],
        },
    )


def _server_policy(deployment: MIIDeployment, cluster: Cluster) -> Manifest:
    """Servers ask for no key, so that only the gateway may reach them."""
    gateway = {"podSelector": {"matchLabels": meta.selector(deployment, constants.GATEWAY)}}
    rules = [
        _allow(constants.HTTP_PORT, constants.GRPC_PORT, sources=[gateway]),
        _allow(constants.HTTP_PORT, sources=[_OPERATOR]),
    ]
    return _policy(deployment, constants.SERVER, rules + _scraping(cluster, constants.HTTP_PORT))


def _gateway_policy(deployment: MIIDeployment, cluster: Cluster) -> Manifest:
    rules = [
        _allow(constants.HTTP_PORT, constants.GRPC_PORT),
        _allow(constants.PROBE_PORT, sources=[_OPERATOR]),
    ]
    return _policy(deployment, constants.GATEWAY, rules + _scraping(cluster, constants.PROBE_PORT))


def _scraping(cluster: Cluster, port: int) -> list[Manifest]:
    return [_allow(port, sources=[_PROMETHEUS])] if cluster.capabilities.service_monitor else []


def _allow(*ports: int, sources: list[Manifest] | None = None) -> Manifest:
    """An ingress rule; without sources from everywhere."""
    rule: Manifest = {"ports": [{"protocol": "TCP", "port": port} for port in ports]}
    return {**rule, "from": sources} if sources else rule


def _policy(deployment: MIIDeployment, component: str, ingress: list[Manifest]) -> Manifest:
    return meta.build(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        meta.metadata(deployment, component),
        spec={
            "podSelector": {"matchLabels": meta.selector(deployment, component)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    )
