"""A manifest on one machine: facts for a plan of processes, and what such a plan cannot honour. Pure."""

from mii_operator.facts import Facts
from mii_spec.model_facts import ModelFacts
from mii_spec.sizing import GpuFacts
from mii_spec.source import VolumeModel
from mii_spec.spec import Cache, Gateway, MIIDeployment, PodTemplate, Rollout, Spec

REPLICAS_A_CORE = 4  # more processes than this only wait for each other
_NO_SECRETS = "there are no Secrets outside a cluster; remove the field"


def local_facts(*, gpus: int = 0, gpu_memory: int | None = None, model: ModelFacts | None = None) -> Facts:
    """Facts of this machine as far as they are known: its GPUs, the bytes of memory of one, the model."""
    gpu = GpuFacts(memory_bytes=gpu_memory, per_node=gpus) if gpus else None
    return Facts(model=model, gpu=gpu)


def local_refusals(deployment: MIIDeployment, *, gpus: int = 0, cores: int = 1) -> list[str]:
    """One line per field that needs a cluster, with what to do instead; empty when processes can serve it.

    `gpus` and `cores` are this machine's. What pods alone have is not refused: see `unused_fields`.
    """
    spec = deployment.spec
    most = REPLICAS_A_CORE * cores
    needed = needed_gpus(spec)
    gateway = spec.gateway
    refused = (
        (isinstance(spec.source, VolumeModel), "spec.model: pvc:// needs a cluster; use file:///path here"),
        (needed > gpus, f"spec.gpus: {needed} asked for, this machine has {gpus}; gpus: 0 runs on the CPU"),
        (spec.token_secret_ref, f"spec.tokenSecretRef: {_NO_SECRETS}; set HF_TOKEN in the environment"),
        (gateway.api_keys_secret_ref, f"spec.gateway.apiKeysSecretRef: {_NO_SECRETS}"),
        (gateway.tls_secret_ref, f"spec.gateway.tlsSecretRef: {_NO_SECRETS}"),
        (
            spec.replicas > most,
            f"spec.replicas: {spec.replicas} asked for, {cores} core(s) take at most {most} processes",
        ),
        (spec.autoscaling, "spec.autoscaling: needs a cluster; remove it and set replicas"),
    )
    return [message for applies, message in refused if applies]


def unused_fields(deployment: MIIDeployment) -> list[str]:
    """The fields that this manifest sets and only pods have a use for."""
    spec = deployment.spec
    given = {
        "spec.cache": spec.cache != Cache(),
        "spec.gateway.replicas": spec.gateway.replicas != Gateway().replicas,
        "spec.rollout.strategy": spec.rollout.strategy != Rollout().strategy,
        "spec.podTemplate": spec.pod_template != PodTemplate(),
    }
    return [name for name, is_given in given.items() if is_given]


def needed_gpus(spec: Spec) -> int:
    """GPUs per replica that the manifest insists on; 0 when it leaves the choice."""
    if spec.gpus != "auto":
        return spec.gpus
    return spec.tensor_parallel if spec.tensor_parallel != "auto" and spec.tensor_parallel > 1 else 0
