"""Durations ("30m") and quantities of bytes ("100Gi") as manifests write them."""

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_BYTES = {"": 1} | {
    prefix + suffix: base**power
    for power, (decimal, binary) in enumerate(zip("kMGTP", "KMGTP", strict=True), start=1)
    for prefix, suffix, base in ((decimal, "", 1000), (binary, "i", 1024))
}


def parse_duration(text: str) -> timedelta:
    """ "1h30m" as a timedelta; ValueError says how a duration is written."""
    if not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError(f"must be a duration such as 90s, 30m or 1h30m, got {text!r}")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
    return timedelta(milliseconds=float(sum(Decimal(number) * _MILLISECONDS[unit] for number, unit in parts)))


def format_duration(value: timedelta) -> str:
    """The shortest spelling in one unit: 120 s is "2m", 90 s is "90s"."""
    milliseconds = round(value / timedelta(milliseconds=1))
    for unit in ("h", "m", "s"):
        if milliseconds and milliseconds % _MILLISECONDS[unit] == 0:
            return f"{milliseconds // _MILLISECONDS[unit]}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def parse_quantity(text: str) -> int:
    """ "100Gi" in bytes; ValueError says how a quantity is written."""
    match = re.fullmatch(QUANTITY_PATTERN, text)
    if not match:
        raise ValueError(f"must be a quantity of bytes such as 100Gi or 500G, got {text!r}")
    suffix = match.group(2) or ""
    return int(Decimal(text.removesuffix(suffix)) * _BYTES[suffix])


@dataclass(frozen=True)
class DurationBounds:
    """Annotates a timedelta field that manifests write as text, between two such texts."""

    minimum: str
    maximum: str

    def check(self, value: Any) -> timedelta:
        if isinstance(value, str):
            value = parse_duration(value)
        if not isinstance(value, timedelta):
            raise ValueError(f"must be a duration such as 90s, 30m or 1h30m, got {value!r}")
        if not parse_duration(self.minimum) <= value <= parse_duration(self.maximum):
            raise ValueError(f"must be from {self.minimum} to {self.maximum}, got {format_duration(value)}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.check, serialization=core_schema.plain_serializer_function_ser_schema(format_duration)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "pattern": DURATION_PATTERN, "maxLength": 32}
