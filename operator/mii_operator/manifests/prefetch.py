"""The Job that downloads a model to the cache's claim before a server starts, so that no GPU waits for it."""

import hashlib

from mii_operator import commands, constants
from mii_operator.facts import Cluster
from mii_operator.manifests import meta, pods
from mii_operator.manifests.environment import environment
from mii_operator.manifests.meta import Manifest
from mii_operator.manifests.overlay import merge
from mii_operator.manifests.storage import cache_volume
from mii_spec.source import HubModel, UrlModel
from mii_spec.spec import MIIDeployment

_RETRIES = 6
# Of spec.podTemplate.spec: where pods may run and how they reach the outside; not what a server needs.
_TAKEN_OVER = (
    "nodeSelector",
    "tolerations",
    "affinity",
    "imagePullSecrets",
    "securityContext",
    "hostAliases",
)
_RESOURCES = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}


def wanted(deployment: MIIDeployment) -> bool:
    """Whether there is a volume to download to, and something to download."""
    spec = deployment.spec
    return bool(spec.cache.size or spec.cache.claim_name) and isinstance(spec.source, HubModel | UrlModel)


def job_name(deployment: MIIDeployment) -> str:
    """A Job cannot be changed: another model is another Job."""
    what = f"{deployment.spec.model}\n{deployment.spec.revision}"
    return f"{deployment.metadata.name}-{constants.FETCH}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"


def objects(deployment: MIIDeployment, cluster: Cluster) -> list[Manifest]:
    if not wanted(deployment):
        return []
    template = pods.pod_template(
        deployment,
        cluster,
        constants.FETCH,
        serviceAccountName=meta.component_name(deployment, constants.SERVER),
        automountServiceAccountToken=False,
        restartPolicy="Never",
        terminationGracePeriodSeconds=constants.EXIT_SECONDS,
        affinity=_near_servers(deployment),
        containers=[_container(deployment, cluster)],
        volumes=[cache_volume(deployment), pods.TEMPORARY],
    )
    return [
        meta.build(
            "batch/v1",
            "Job",
            meta.metadata(deployment, constants.FETCH, name=job_name(deployment)),
            spec={"backoffLimit": _RETRIES, "template": merge(template, {"spec": _overlay(deployment)})},
        )
    ]


def _container(deployment: MIIDeployment, cluster: Cluster) -> Manifest:
    spec = deployment.spec
    revision = [f"--revision={spec.revision}"] if isinstance(spec.source, HubModel) else []
    return {
        "name": constants.FETCH,
        **pods.image(cluster.images.server, cluster),
        "command": ["mii", "fetch"],
        "args": [commands.location(spec), *revision],
        "env": environment(deployment),
        "resources": _RESOURCES,
        "securityContext": pods.hardened(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "cache", "mountPath": constants.CACHE_PATH}, pods.TEMPORARY_MOUNT],
    }


def _overlay(deployment: MIIDeployment) -> Manifest:
    overlay = deployment.spec.pod_template.spec
    containers = overlay.get("containers", ())
    server: Manifest = next((c for c in containers if c.get("name") == constants.SERVER), {})
    taken = {key: overlay[key] for key in _TAKEN_OVER if key in overlay}
    env = [{"name": constants.FETCH, "env": server["env"]}] if "env" in server else []
    return {**taken, **({"containers": env} if env else {})}


def _near_servers(deployment: MIIDeployment) -> Manifest:
    """Where a server has the volume already: many volumes can be mounted by one node alone."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": meta.selector(deployment, constants.SERVER)},
    }
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
