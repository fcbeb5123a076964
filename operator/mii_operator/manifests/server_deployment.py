"""The model servers: one pod is one replica, with all its GPUs."""

from math import ceil

from mii_operator import constants
from mii_operator.facts import Cluster
from mii_operator.manifests import meta, pods
from mii_operator.manifests.environment import environment
from mii_operator.manifests.meta import Manifest
from mii_operator.manifests.overlay import merge
from mii_operator.manifests.rollout import strategy
from mii_operator.manifests.storage import cache_volume, model_volumes
from mii_spec.sizing import Choice
from mii_spec.spec import MIIDeployment

STARTUP_PERIOD = 2  # seconds between looks at a loading replica
SCHEDULING_SECONDS = 600  # that pulling the image and waiting for a node may add to loading

_SHARED_MEMORY = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}


def container(deployment: MIIDeployment, cluster: Cluster, choice: Choice, base: Manifest) -> Manifest:
    """`base` (name, command, args) with everything that a pod adds."""
    return {
        **base,
        **pods.image(cluster.images.server, cluster),
        "env": environment(deployment),
        "ports": pods.ports(http=constants.HTTP_PORT, grpc=constants.GRPC_PORT),
        "resources": _resources(deployment, choice),
        "securityContext": pods.hardened(),
        "startupProbe": _startup_probe(deployment),
        "readinessProbe": pods.probe("/health/ready", port="http", period=2, timeout=2, failures=2),
        "livenessProbe": pods.probe("/health/live", port="http", period=5, timeout=5, failures=3),
        "lifecycle": pods.lifecycle(constants.SERVER),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "cache", "mountPath": constants.CACHE_PATH},
            {"name": "shm", "mountPath": "/dev/shm"},
            pods.TEMPORARY_MOUNT,
            *(
                {"name": v["name"], "mountPath": constants.MODEL_PATH, "readOnly": True}
                for v in model_volumes(deployment)
            ),
        ],
    }


def build(deployment: MIIDeployment, cluster: Cluster, choice: Choice, container: Manifest) -> Manifest:
    """The Deployment. Without `replicas` while autoscaling is set, as the autoscaler owns that field then."""
    spec = deployment.spec
    count = {} if spec.autoscaling else {"replicas": spec.replicas}
    return meta.build(
        "apps/v1",
        "Deployment",
        meta.metadata(deployment, constants.SERVER),
        spec={
            **count,
            "selector": {"matchLabels": meta.selector(deployment, constants.SERVER)},
            "strategy": strategy(spec.rollout, gpus=choice.gpus, free_gpus=cluster.free_gpus),
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": _startup_seconds(deployment) + SCHEDULING_SECONDS,
            "template": _template(deployment, cluster, choice, container),
        },
    )


def _template(deployment: MIIDeployment, cluster: Cluster, choice: Choice, container: Manifest) -> Manifest:
    overlay = deployment.spec.pod_template
    template = pods.pod_template(
        deployment,
        cluster,
        constants.SERVER,
        automountServiceAccountToken=False,
        containers=[container],
        volumes=[cache_volume(deployment), _SHARED_MEMORY, pods.TEMPORARY, *model_volumes(deployment)],
        **_placement(deployment, choice),
    )
    return merge(template, {"metadata": overlay.metadata, "spec": overlay.spec})


def _placement(deployment: MIIDeployment, choice: Choice) -> Manifest:
    """GPU nodes are commonly tainted with their resource's name."""
    accelerator = deployment.spec.accelerator
    if not choice.gpus:
        return {}
    placement: Manifest = {
        "tolerations": [{"key": accelerator.resource, "operator": "Exists", "effect": "NoSchedule"}]
    }
    if accelerator.product:
        placement["nodeSelector"] = {constants.PRODUCT_LABEL: accelerator.product}
    return placement


def _resources(deployment: MIIDeployment, choice: Choice) -> Manifest:
    """As text: older API servers take no numbers in server-side apply."""
    return {"limits": {deployment.spec.accelerator.resource: str(choice.gpus)}} if choice.gpus else {}


def _startup_probe(deployment: MIIDeployment) -> Manifest:
    """Gives loading its time: liveness is asked only after this has succeeded."""
    failures = ceil(_startup_seconds(deployment) / STARTUP_PERIOD)
    return pods.probe("/health/ready", port="http", period=STARTUP_PERIOD, timeout=2, failures=failures)


def _startup_seconds(deployment: MIIDeployment) -> int:
    return ceil(deployment.spec.rollout.startup_timeout.total_seconds())
