"""The custom resource `MIIDeployment` (mii.dev/v1alpha1): every field, its default and its bounds.

    manifest (a dict) ─parse─> MIIDeployment, frozen and checked ─> plan

`crds/miideployments.yaml` says the same to the API server.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from mii_spec import rules
from mii_spec.complaints import complaints
from mii_spec.errors import FieldError, SpecError
from mii_spec.fields import (
    DrainTimeout,
    Fraction,
    Gpus,
    IdleTimeout,
    LabelValue,
    ModelLength,
    ModelName,
    ObjectName,
    Quantity,
    QueueTimeout,
    Replicas,
    ResourceName,
    SecretKey,
    StartupTimeout,
    Strict,
    TokenBudget,
    Width,
)
from mii_spec.metadata import Metadata
from mii_spec.quantities import parse_duration
from mii_spec.source import ModelSource, parse_source

GROUP = "mii.dev"
VERSION = "v1alpha1"
KIND = "MIIDeployment"
PLURAL = "miideployments"


class Accelerator(Strict):
    resource: ResourceName = "nvidia.com/gpu"
    product: LabelValue = ""  # as in the node label nvidia.com/gpu.product; empty is any


class Engine(Strict):
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: ModelLength = "auto"  # tokens of prompt and output together
    kv_memory_fraction: Fraction = 0.9  # of the GPU memory that is free after loading
    quantization: Literal["none", "fp8"] = "none"  # of attention and MLP, at load
    token_budget: TokenBudget = "auto"  # tokens per forward
    args: Annotated[
        tuple[Annotated[str, Field(max_length=1024)], ...], Field(strict=False, max_length=64)
    ] = ()


class SecretKeyRef(Strict):
    """One key of a Secret."""

    name: ObjectName
    key: SecretKey


class SecretRef(Strict):
    """A whole Secret."""

    name: ObjectName


class Cache(Strict):
    """Where downloads lie: nothing set is an emptyDir, `size` a new claim, `claimName` one that exists."""

    size: Quantity | None = None
    storage_class_name: ObjectName | None = None
    claim_name: ObjectName | None = None


class Queue(Strict):
    max_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 512
    timeout: QueueTimeout = parse_duration("60s")


class Gateway(Strict):
    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    routing: Literal["auto"] = "auto"
    queue: Queue = Queue()
    api_keys_secret_ref: SecretRef | None = None
    tls_secret_ref: SecretRef | None = None


class Autoscaling(Strict):
    by: Literal["operator", "hpa"] = "operator"
    min: Replicas
    max: Annotated[int, Field(ge=1, le=1000)]
    target_utilization: Fraction = 0.7
    idle_after: IdleTimeout | None = None  # with min 0: after this long without a request


class Rollout(Strict):
    strategy: Literal["auto", "surge", "replace"] = "auto"
    drain_timeout: DrainTimeout = parse_duration("120s")
    startup_timeout: StartupTimeout = parse_duration("30m")


class PodTemplate(Strict):
    """An overlay over the server's pod template, merged as kubectl does (strategic merge)."""

    metadata: dict[str, Any] = Field(default_factory=dict)
    spec: dict[str, Any] = Field(default_factory=dict)


class Spec(Strict):
    model: ModelName
    revision: Annotated[str, Field(min_length=1, max_length=255)] = "main"
    served_name: Annotated[str, Field(max_length=255)] = ""  # in the OpenAI API; empty is `model`
    replicas: Replicas = 1
    gpus: Gpus = "auto"  # per replica
    tensor_parallel: Width = "auto"
    accelerator: Accelerator = Accelerator()
    engine: Engine = Engine()
    token_secret_ref: SecretKeyRef | None = None
    cache: Cache = Cache()
    gateway: Gateway = Gateway()
    autoscaling: Autoscaling | None = None
    rollout: Rollout = Rollout()
    pod_template: PodTemplate = PodTemplate()

    @property
    def source(self) -> ModelSource:
        return parse_source(self.model)

    @property
    def served_model_name(self) -> str:
        return self.served_name or self.model


class MIIDeployment(Strict):
    api_version: Literal["mii.dev/v1alpha1"]
    kind: Literal["MIIDeployment"]
    metadata: Metadata
    spec: Spec


def parse(doc: Mapping[str, Any]) -> MIIDeployment:
    """A manifest, or the object as the API server stores it. Raises SpecError with every wrong field."""
    if not isinstance(doc, Mapping):
        raise SpecError([FieldError("manifest", f"must be an object, got {type(doc).__name__}")])
    try:
        deployment = MIIDeployment.model_validate({k: v for k, v in doc.items() if k != "status"})
    except ValidationError as error:
        raise SpecError(complaints(error, MIIDeployment)) from None
    if errors := list(rules.check(deployment)):
        raise SpecError(errors)
    return deployment
