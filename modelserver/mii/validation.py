"""Turns pydantic's validation errors into one sentence for users and the path of the field it is about."""

from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import PydanticCustomError


def conflict(field: str, text: str) -> PydanticCustomError:
    """What a model's validator raises when its fields contradict each other: laid at `field`'s door."""
    return PydanticCustomError("conflict", "{text}", {"field": field, "text": text})


MANY = 1000  # problems; to list more takes the event loop's time, up to a minute of it for one request


class Problem(NamedTuple):
    message: str
    param: str | None  # "messages[0].content", as the user wrote it
    unknown: bool = False  # the field does not exist


def first_problem(error: ValidationError, document: Any) -> Problem:
    """The first thing that is wrong with `document`, the parsed value that failed to validate.

    Lists should be validated with fail_fast, so that only the fields of objects can be wrong by the million.
    """
    if error.error_count() > MANY:
        return Problem(f"{error.error_count()} fields are wrong or unknown", None)
    problems = error.errors(include_url=False)
    first = problems[0]
    missing, unknown = first["type"] == "missing", first["type"] == "extra_forbidden"
    param = field_path(first["loc"], document, missing=missing)
    if first["type"] == "conflict":
        param = join(param or "", first["ctx"]["field"])
    message = _sentence(first["msg"], param, missing=missing, unknown=unknown)
    if len(problems) > 1:
        message += f" (and {len(problems) - 1} more)"
    return Problem(message, param, unknown)


def field_path(location: tuple[int | str, ...], document: Any, *, missing: bool = False) -> str | None:
    """`location` without the names of union branches, which are pydantic's and not the user's."""
    path = ""
    for step in location:
        if _holds(document, step):
            document = document[step]
            path = join(path, step)
    return (join(path, location[-1]) if missing else path) or None


def join(path: str, step: int | str) -> str:
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else step


def _holds(document: Any, step: int | str) -> bool:
    if isinstance(document, dict):
        return step in document
    return isinstance(document, list | tuple) and isinstance(step, int) and step < len(document)


def _sentence(text: str, param: str | None, *, missing: bool, unknown: bool) -> str:
    if param is None:
        return text.removeprefix("Value error, ")
    if missing:
        return f"'{param}' is required"
    if unknown:
        return f"'{param}' is not a field of this request"
    text = text.removeprefix("Input ").removeprefix("Value error, ")
    return f"'{param}': {text}"
