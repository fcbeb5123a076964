"""How many pods a node drain may take at once."""

from mii_operator import constants
from mii_operator.facts import Cluster
from mii_operator.manifests import meta
from mii_operator.manifests.meta import Manifest
from mii_spec.spec import MIIDeployment


def objects(deployment: MIIDeployment, cluster: Cluster) -> list[Manifest]:
    """A PodDisruptionBudget per component, where the API server has them: one pod at a time.

    A single replica can still be drained: a budget that forbids it would only block the node.
    """
    version = cluster.capabilities.disruption_budget
    components = (constants.SERVER, constants.GATEWAY) if version else ()
    return [
        meta.build(
            str(version),
            "PodDisruptionBudget",
            meta.metadata(deployment, component),
            spec={
                "maxUnavailable": 1,
                "selector": {"matchLabels": meta.selector(deployment, component)},
            },
        )
        for component in components
    ]
