"""pydantic's complaints in the words of a manifest's author."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mii_spec.errors import FieldError

_TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "a text",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
}


def complaints(error: ValidationError, model: type[BaseModel]) -> list[FieldError]:
    """One FieldError per complaint about a document of type `model`."""
    return [FieldError(path(item["loc"]), _message(item, model)) for item in error.errors()]


def path(location: Sequence[str | int]) -> str:
    """("spec", "args", 0) as "spec.args[0]"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _message(item: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, got {value!r}"
    if kind == "extra_forbidden":
        return _unknown(item["loc"], model)
    if kind in _WORDS:
        return _WORDS[kind](context, value)
    return f"{item['msg']}, got {value!r}"


_WORDS: Mapping[str, Callable[[dict[str, Any], Any], str]] = {
    "missing": lambda _, __: "is required",
    "value_error": lambda ctx, _: str(ctx["error"]),
    "literal_error": lambda ctx, value: f"must be {ctx['expected']}, got {value!r}",
    "greater_than": lambda ctx, value: f"must be more than {ctx['gt']:g}, got {value!r}",
    "greater_than_equal": lambda ctx, value: f"must be at least {ctx['ge']:g}, got {value!r}",
    "less_than_equal": lambda ctx, value: f"must be at most {ctx['le']:g}, got {value!r}",
    "string_too_short": lambda _, __: "must not be empty",
    "string_too_long": lambda ctx, _: f"must have at most {ctx['max_length']} characters",
    "too_long": lambda ctx, _: f"must have at most {ctx['max_length']} entries",
}


def _unknown(location: Sequence[str | int], model: type[BaseModel]) -> str:
    known = sorted(field.alias or name for name, field in _owner(location, model).model_fields.items())
    near = get_close_matches(str(location[-1]), known, n=1)
    return (
        f"unknown field; did you mean {near[0]}?" if near else f"unknown field; there are: {', '.join(known)}"
    )


def _owner(location: Sequence[str | int], model: type[BaseModel]) -> type[BaseModel]:
    """The model that holds the location's last part."""
    for part in location[:-1]:
        field = next(f for name, f in model.model_fields.items() if part in (name, f.alias))
        model = next(t for t in (field.annotation, *_arguments(field.annotation)) if _is_model(t))
    return model


def _arguments(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", ())


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
