"""Who the pods are and what they may ask of the API server: the gateway where the replicas are, no more."""

from mii_operator import constants
from mii_operator.manifests import meta
from mii_operator.manifests.meta import Manifest
from mii_spec.spec import MIIDeployment

_READ = ["get", "list", "watch"]
_RULES = [
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
    {"apiGroups": [""], "resources": ["endpoints"], "verbs": _READ},
]
_RBAC = "rbac.authorization.k8s.io"


def objects(deployment: MIIDeployment) -> list[Manifest]:
    """ServiceAccounts of both components, Role and RoleBinding of the gateway."""
    return [
        _account(deployment, constants.SERVER),
        _account(deployment, constants.GATEWAY),
        meta.build(f"{_RBAC}/v1", "Role", meta.metadata(deployment, constants.GATEWAY), rules=_RULES),
        _binding(deployment),
    ]


def _account(deployment: MIIDeployment, component: str) -> Manifest:
    """Pods say themselves whether they want its token."""
    return meta.build(
        "v1", "ServiceAccount", meta.metadata(deployment, component), automountServiceAccountToken=False
    )


def _binding(deployment: MIIDeployment) -> Manifest:
    name = meta.component_name(deployment, constants.GATEWAY)
    namespace = deployment.metadata.namespace
    return meta.build(
        f"{_RBAC}/v1",
        "RoleBinding",
        meta.metadata(deployment, constants.GATEWAY),
        roleRef={"apiGroup": _RBAC, "kind": "Role", "name": name},
        subjects=[{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    )
