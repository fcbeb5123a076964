"""All objects of a deployment, what others refer to first."""

from copy import deepcopy

from mii_operator.facts import Cluster
from mii_operator.manifests import (
    access,
    autoscaler,
    availability,
    gateway_deployment,
    monitoring,
    network,
    prefetch,
    server_deployment,
    storage,
)
from mii_operator.manifests.meta import Manifest
from mii_spec.sizing import Choice
from mii_spec.spec import MIIDeployment


def children(
    deployment: MIIDeployment, cluster: Cluster, choice: Choice, *, server: Manifest, gateway: Manifest
) -> tuple[Manifest, ...]:
    """In apply order; `server` and `gateway` are the two container specs. The objects share no parts."""
    objects = (
        *access.objects(deployment),
        *storage.objects(deployment, cluster),
        *prefetch.objects(deployment, cluster),
        *network.objects(deployment, cluster),
        *availability.objects(deployment, cluster),
        server_deployment.build(deployment, cluster, choice, server),
        gateway_deployment.build(deployment, cluster, gateway),
        *autoscaler.objects(deployment, cluster),
        *monitoring.objects(deployment, cluster),
    )
    return tuple(map(deepcopy, objects))
