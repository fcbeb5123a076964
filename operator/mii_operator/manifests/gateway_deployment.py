"""The gateways: the one address in front of the replicas."""

from mii_operator import constants
from mii_operator.facts import Cluster
from mii_operator.manifests import meta, pods
from mii_operator.manifests.meta import Manifest
from mii_operator.manifests.rollout import rolling
from mii_spec.spec import MIIDeployment

_RESOURCES = {"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}


def container(deployment: MIIDeployment, cluster: Cluster, base: Manifest) -> Manifest:
    """`base` (name, command, args) with everything that a pod adds."""
    return {
        **base,
        **pods.image(cluster.images.gateway, cluster),
        "env": [{"name": "HOME", "value": pods.TEMPORARY_MOUNT["mountPath"]}],
        "ports": pods.ports(http=constants.HTTP_PORT, grpc=constants.GRPC_PORT, probe=constants.PROBE_PORT),
        "resources": _RESOURCES,
        "securityContext": pods.hardened(),
        "startupProbe": pods.probe("/health/live", port="probe", period=1, timeout=1, failures=60),
        "readinessProbe": pods.probe("/health/ready", port="probe", period=2, timeout=2, failures=2),
        "livenessProbe": pods.probe("/health/live", port="probe", period=5, timeout=5, failures=3),
        "lifecycle": pods.lifecycle(constants.GATEWAY),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [pods.TEMPORARY_MOUNT, *_secret_mounts(deployment)],
    }


def build(deployment: MIIDeployment, cluster: Cluster, container: Manifest) -> Manifest:
    """The Deployment. It needs no GPU, so that it can always surge."""
    return meta.build(
        "apps/v1",
        "Deployment",
        meta.metadata(deployment, constants.GATEWAY),
        spec={
            "replicas": deployment.spec.gateway.replicas,
            "selector": {"matchLabels": meta.selector(deployment, constants.GATEWAY)},
            "strategy": rolling(surge=1, unavailable=0),
            "revisionHistoryLimit": 2,
            "template": pods.pod_template(
                deployment,
                cluster,
                constants.GATEWAY,
                automountServiceAccountToken=True,
                containers=[container],
                volumes=[pods.TEMPORARY, *_secret_volumes(deployment)],
            ),
        },
    )


def _secrets(deployment: MIIDeployment) -> list[tuple[str, str, str]]:
    """Volume, Secret and path of each Secret that the gateway reads, as files so that changes arrive."""
    gateway = deployment.spec.gateway
    wanted = (
        ("api-keys", gateway.api_keys_secret_ref, constants.API_KEYS_PATH),
        ("tls", gateway.tls_secret_ref, constants.TLS_PATH),
    )
    return [(volume, secret.name, path) for volume, secret, path in wanted if secret]


def _secret_volumes(deployment: MIIDeployment) -> list[Manifest]:
    return [
        {"name": volume, "secret": {"secretName": secret, "defaultMode": 0o440}}
        for volume, secret, _ in _secrets(deployment)
    ]


def _secret_mounts(deployment: MIIDeployment) -> list[Manifest]:
    return [{"name": volume, "mountPath": path, "readOnly": True} for volume, _, path in _secrets(deployment)]
