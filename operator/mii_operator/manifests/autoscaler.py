"""The HorizontalPodAutoscaler, where the manifest wants one in the operator's place."""

from mii_operator import constants
from mii_operator.facts import Cluster
from mii_operator.manifests import meta
from mii_operator.manifests.meta import Manifest
from mii_spec.spec import Autoscaling, MIIDeployment

METRIC = "mii_gateway_utilization"  # of the clients' Service: summed over its gateways and their replicas


def objects(deployment: MIIDeployment, cluster: Cluster) -> list[Manifest]:
    """Windows and tolerance are the defaults, which are the operator's own."""
    scaling = deployment.spec.autoscaling
    if scaling is None or scaling.by != "hpa":
        return []
    server = meta.component_name(deployment, constants.SERVER)
    return [
        meta.build(
            str(cluster.capabilities.autoscaler),
            "HorizontalPodAutoscaler",
            meta.metadata(deployment, constants.SERVER),
            spec={
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": server},
                "minReplicas": scaling.min,
                "maxReplicas": scaling.max,
                "metrics": [_metric(deployment, scaling)],
            },
        )
    ]


def _metric(deployment: MIIDeployment, scaling: Autoscaling) -> Manifest:
    """replicas = ceil(METRIC / target), as the operator counts; the target to a thousandth."""
    target = f"{max(1, round(1000 * scaling.target_utilization))}m"
    return {
        "type": "Object",
        "object": {
            "describedObject": {"apiVersion": "v1", "kind": "Service", "name": deployment.metadata.name},
            "metric": {"name": METRIC},
            "target": {"type": "AverageValue", "averageValue": target},
        },
    }
