"""The environment of everything that downloads models."""

from mii_operator import constants
from mii_operator.manifests import pods
from mii_operator.manifests.meta import Manifest
from mii_spec.spec import MIIDeployment


def environment(deployment: MIIDeployment) -> list[Manifest]:
    token = deployment.spec.token_secret_ref
    return [
        {"name": "HOME", "value": pods.TEMPORARY_MOUNT["mountPath"]},
        {"name": "HF_HOME", "value": f"{constants.CACHE_PATH}/huggingface"},
        *(
            [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": token.name, "key": token.key}}}]
            if token
            else []
        ),
    ]
