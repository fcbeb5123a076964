"""`status` of an MIIDeployment: what the operator writes and people read."""

from typing import Annotated, Literal

from pydantic import Field

from mii_spec.fields import Strict

ConditionType = Literal[
    "Ready", "Available", "Progressing", "Accepted", "Scheduled", "ModelCached", "GatewayReady"
]


class Condition(Strict):
    """As metav1.Condition: `reason` is one CamelCase word for programs, `message` a sentence for people."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    message: Annotated[str, Field(max_length=32768)] = ""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]  # RFC 3339
    observed_generation: Annotated[int, Field(ge=0)] | None = None


class EngineStatus(Strict):
    """What a loaded replica reports of itself."""

    tensor_parallel: int | None = None
    device: str | None = None
    kv_blocks: int | None = None
    max_model_len: int | None = None
    revision: str | None = None
    load_seconds: float | None = None


class Status(Strict):
    observed_generation: int | None = None
    url: str | None = None
    replicas: int | None = None
    ready_replicas: int | None = None
    updated_replicas: int | None = None
    selector: str | None = None  # of the server's pods, for the scale subresource
    summary: str | None = None  # ready and wanted replicas, "2/2"
    engine: EngineStatus | None = None
    conditions: Annotated[tuple[Condition, ...], Field(strict=False)] = ()
