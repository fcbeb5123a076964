"""The types of the resource's fields: their bounds, their JSON schema and how they are checked."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from mii_spec import names
from mii_spec.quantities import QUANTITY_PATTERN, DurationBounds, parse_quantity
from mii_spec.source import SOURCE_PATTERN, check_source


class Strict(BaseModel):
    """What every part of the resource is: frozen, camelCase outside, no unknown field, no coercion."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=to_camel, validate_by_name=True
    )


@dataclass(frozen=True)
class AutoOr:
    """Annotates a field that is "auto" or an integer between two bounds."""

    minimum: int
    maximum: int

    def check(self, value: Any) -> int | Literal["auto"]:
        if value == "auto":
            return "auto"
        if type(value) is int and self.minimum <= value <= self.maximum:
            return value
        raise ValueError(f"must be auto or an integer from {self.minimum} to {self.maximum}, got {value!r}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        integer = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        return {"anyOf": [integer, {"type": "string", "pattern": "^auto$"}]}


def _check_quantity(text: str) -> str:
    if parse_quantity(text) <= 0:
        raise ValueError(f"must be more than 0, got {text!r}")
    return text


def _pattern(pattern: str, maximum: int) -> Any:
    """The JSON schema of a text whose check (an AfterValidator) says in words what the pattern says."""
    return Field(json_schema_extra={"pattern": pattern, "maxLength": maximum})


Auto = Literal["auto"]
Gpus = Annotated[int | Auto, AutoOr(0, 64)]
Width = Annotated[int | Auto, AutoOr(1, 64)]
ModelLength = Annotated[int | Auto, AutoOr(2, 16_777_216)]
TokenBudget = Annotated[int | Auto, AutoOr(1, 1_048_576)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Replicas = Annotated[int, Field(ge=0, le=1000)]
QueueTimeout = Annotated[timedelta, DurationBounds("100ms", "1h")]
IdleTimeout = Annotated[timedelta, DurationBounds("1m", "168h")]
DrainTimeout = Annotated[timedelta, DurationBounds("0s", "1h")]
StartupTimeout = Annotated[timedelta, DurationBounds("10s", "24h")]

ModelName = Annotated[str, AfterValidator(check_source), _pattern(SOURCE_PATTERN, 1024)]
ObjectName = Annotated[str, AfterValidator(names.check_subdomain), _pattern(names.SUBDOMAIN_PATTERN, 253)]
SecretKey = Annotated[str, AfterValidator(names.check_secret_key), _pattern(names.SECRET_KEY_PATTERN, 253)]
ResourceName = Annotated[
    str, AfterValidator(names.check_resource_name), _pattern(names.QUALIFIED_NAME_PATTERN, 253)
]
LabelValue = Annotated[str, AfterValidator(names.check_label_value), _pattern(names.LABEL_VALUE_PATTERN, 63)]
Quantity = Annotated[str, AfterValidator(_check_quantity), _pattern(QUANTITY_PATTERN, 32)]
