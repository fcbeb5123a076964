"""What Prometheus scrapes, where its operator's ServiceMonitor exists."""

from mii_operator import constants
from mii_operator.facts import Cluster
from mii_operator.manifests import meta
from mii_operator.manifests.meta import Manifest
from mii_spec.spec import MIIDeployment


def objects(deployment: MIIDeployment, cluster: Cluster) -> list[Manifest]:
    """One for the servers' HTTP port and one for the gateways' probe port."""
    version = cluster.capabilities.service_monitor
    if not version:
        return []
    ports = ((constants.SERVER, "http"), (constants.GATEWAY, "probe"))
    return [_monitor(deployment, version, component, port) for component, port in ports]


def _monitor(deployment: MIIDeployment, version: str, component: str, port: str) -> Manifest:
    return meta.build(
        version,
        "ServiceMonitor",
        meta.metadata(deployment, component),
        spec={
            "selector": {"matchLabels": meta.selector(deployment, component)},
            # The pods' port by name: the probe port is in no Service.
            "endpoints": [{"targetPort": port, "path": "/metrics"}],
        },
    )
