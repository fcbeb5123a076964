"""The configuration of mii.pipeline and mii.serve, with DeepSpeed-MII's names and defaults.

    keywords ─> ModelConfig ─> EngineConfig                  (a pipeline)
            └─> MIIConfig   ─> ServerArgs, GatewayArgs       (a deployment)

What this implementation cannot honour is refused with the way that works. A few options configure machinery
that does not exist here (TCP ports between processes, worker processes of the REST server): any value keeps
their promise, so they are accepted.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from mii.errors import InvalidRequest, UnknownArgument
from mii.inference_config import engine_options

Port = Annotated[int, Field(ge=1, le=65535)]
Gpu = Annotated[int, Field(ge=0)]
GpuMap = Literal["auto"] | Gpu | list[Gpu] | list[list[Gpu]]

# Options of which only the default is served: the default, and what to do instead.
_ONLY_DEFAULT: dict[str, tuple[Any, str]] = {
    "quantization_mode": (
        None,
        "its modes are not supported; 8-bit floats are inference_engine_config={'quantization': 'fp8'}",
    ),
    "replica_configs": ([], "replicas are described by replica_num and device_map"),
    "deployment_type": (
        "local",
        "only local deployments are made from Python; for a cluster, `kubectl apply` a MIIDeployment",
    ),
    "hostfile": ("/job/hostfile", "only this machine is used; for several, `kubectl apply` a MIIDeployment"),
    "instance_type": ("Standard_NC12s_v3", "it belongs to Azure ML deployments, which are not supported"),
    "version": (1, "there is only version 1"),
}


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @field_validator(*_ONLY_DEFAULT, mode="before", check_fields=False)
    @classmethod
    def _only_default(cls, value: Any, info: ValidationInfo) -> Any:
        default, instead = _ONLY_DEFAULT[str(info.field_name)]
        if value != default:
            raise ValueError(instead)
        return value


class ModelConfig(_Config):
    """Which model, and how it is loaded."""

    model_name_or_path: str = Field(min_length=1)
    tokenizer: str | None = None  # default: the model's
    task: Literal["text-generation"] = "text-generation"
    tensor_parallel: int = Field(default_factory=lambda: int(os.environ.get("WORLD_SIZE", "1")), ge=1)
    quantization_mode: None = None
    inference_engine_config: dict[str, Any] = {}
    torch_dist_port: Port = 29500  # any value: processes talk over private sockets
    zmq_port_number: Port = 25555  # likewise
    replica_num: int = Field(1, ge=1)
    replica_configs: list[Any] = []
    device_map: GpuMap | dict[str, GpuMap] = "auto"
    max_length: int | None = Field(None, ge=1)  # tokens of prompt and output together; default: the model's
    sync_debug: bool = False  # every CUDA launch waits for its end
    profile_model_time: bool = False  # either value: model_time_taken is always measured

    @field_validator("inference_engine_config")
    @classmethod
    def _known_engine_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        engine_options(value)
        return value

    @property
    def engine_options(self) -> dict[str, Any]:
        """What is set here, by the names that EngineConfig and ServerArgs share."""
        options = engine_options(self.inference_engine_config)
        if self.max_length is not None:
            options["max_model_len"] = self.max_length
        return {
            "model": self.model_name_or_path,
            "tokenizer": self.tokenizer,
            "tensor_parallel": self.tensor_parallel,
            **options,
        }


class MIIConfig(_Config):
    """One deployment on this machine."""

    model_conf: ModelConfig
    deployment_name: str = Field(min_length=1, max_length=200)  # default: MODEL-mii-deployment
    deployment_type: Literal["local"] = "local"
    port_number: Port = 50050  # gRPC of the deployment; the replicas' ports follow from the next one on
    enable_restful_api: bool = False
    restful_api_host: str = "localhost"
    restful_api_port: Port = 28080
    restful_processes: int = Field(32, ge=1)  # any value: one event loop serves all connections
    hostfile: str = "/job/hostfile"
    version: Literal[1] = 1
    instance_type: str = "Standard_NC12s_v3"

    @model_validator(mode="before")
    @classmethod
    def _name_after_model(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("deployment_name"):
            return values
        conf = values.get("model_conf")
        model = (
            conf.get("model_name_or_path")
            if isinstance(conf, Mapping)
            else getattr(conf, "model_name_or_path", "")
        )
        return {**values, "deployment_name": f"{model}-mii-deployment"}


MODEL_OPTIONS = frozenset(ModelConfig.model_fields)
DEPLOYMENT_OPTIONS = frozenset(MIIConfig.model_fields) - {"model_conf"}


def parse_model_config(
    model: str, model_config: Mapping[str, Any] | None, keywords: Mapping[str, Any]
) -> ModelConfig:
    """Of mii.pipeline. Raises UnknownArgument, InvalidRequest or pydantic's ValidationError."""
    options = _merged(keywords, model_config or {}, {"model_name_or_path": model} if model else {})
    _refuse_unknown(options, MODEL_OPTIONS)
    return ModelConfig(**options)


def parse_mii_config(
    model: str,
    model_config: Mapping[str, Any] | None,
    mii_config: Mapping[str, Any] | None,
    keywords: Mapping[str, Any],
) -> MIIConfig:
    """Of mii.serve. Raises UnknownArgument, InvalidRequest or pydantic's ValidationError."""
    nested = dict(mii_config or {})
    conf = nested.pop("model_conf", None) or {}
    options = _merged(
        keywords, nested, model_config or {}, conf, {"model_name_or_path": model} if model else {}
    )
    _refuse_unknown(options, MODEL_OPTIONS | DEPLOYMENT_OPTIONS)
    of_model = {name: value for name, value in options.items() if name in MODEL_OPTIONS}
    of_deployment = {name: value for name, value in options.items() if name in DEPLOYMENT_OPTIONS}
    return MIIConfig(model_conf=ModelConfig(**of_model), **of_deployment)


def _merged(*sources: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for source in sources:
        for name, value in source.items():
            if merged.setdefault(name, value) != value:
                raise InvalidRequest(
                    f"'{name}' is given twice, as {merged[name]!r} and as {value!r}", param=name
                )
    return merged


def _refuse_unknown(options: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in options:
        if name not in known:
            raise UnknownArgument(f"unknown argument '{name}'; there are: {', '.join(sorted(known))}")
