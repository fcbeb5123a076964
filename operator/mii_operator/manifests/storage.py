"""The volumes that models come from and are downloaded to."""

from mii_operator import constants
from mii_operator.facts import Cluster
from mii_operator.manifests import meta
from mii_operator.manifests.meta import Manifest
from mii_spec.source import VolumeModel
from mii_spec.spec import MIIDeployment

CACHE = "cache"


def objects(deployment: MIIDeployment, cluster: Cluster) -> list[Manifest]:
    """The cache's claim, if the manifest asks for a new one."""
    cache = deployment.spec.cache
    if not cache.size:
        return []
    storage_class = {"storageClassName": cache.storage_class_name} if cache.storage_class_name else {}
    return [
        meta.build(
            "v1",
            "PersistentVolumeClaim",
            meta.metadata(deployment, constants.SERVER, name=claim_name(deployment)),
            spec={
                "accessModes": access_modes(deployment, cluster),
                "resources": {"requests": {"storage": cache.size}},
                **storage_class,
            },
        )
    ]


def claim_name(deployment: MIIDeployment) -> str:
    return deployment.spec.cache.claim_name or f"{deployment.metadata.name}-{CACHE}"


def access_modes(deployment: MIIDeployment, cluster: Cluster) -> list[str]:
    """As the claim has them if it exists, else by whether several replicas may share it."""
    scaling = deployment.spec.autoscaling
    most = scaling.max if scaling else deployment.spec.replicas
    wanted = "ReadWriteMany" if most > 1 else "ReadWriteOnce"
    return list(cluster.cache_access_modes or (wanted,))


def cache_volume(deployment: MIIDeployment) -> Manifest:
    cache = deployment.spec.cache
    if cache.size or cache.claim_name:
        return {"name": CACHE, "persistentVolumeClaim": {"claimName": claim_name(deployment)}}
    return {"name": CACHE, "emptyDir": {}}


def model_volumes(deployment: MIIDeployment) -> list[Manifest]:
    """The claim of a pvc:// model."""
    source = deployment.spec.source
    if not isinstance(source, VolumeModel):
        return []
    return [{"name": "model", "persistentVolumeClaim": {"claimName": source.claim, "readOnly": True}}]
