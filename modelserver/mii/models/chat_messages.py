"""OpenAI's chat messages in the shape that chat templates expect: plain strings and plain objects."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mii.errors import InvalidRequest

Message = Mapping[str, Any]


def plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Copies with text parts joined by newlines and tool-call arguments parsed.

    Raises InvalidRequest, naming the field (`messages[0].content[1].type`), for what is not text.
    """
    if not messages:
        raise _invalid("must hold at least one message", "messages")
    return [_plain_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _plain_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise _invalid("must be an object with a string 'role'", where)
    plain = dict(message)
    if plain.get("content") is not None:
        plain["content"] = _plain_content(plain["content"], f"{where}.content")
    if plain.get("tool_calls") is not None:
        plain["tool_calls"] = _plain_calls(plain["tool_calls"], f"{where}.tool_calls")
    return plain


def _plain_content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _invalid("must be a string or a list of text parts", where)
    return "\n".join(_part_text(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part_text(part: Any, where: str) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, Mapping) else part
        raise _invalid(f"is {kind!r}, but this model reads only parts of type 'text'", f"{where}.type")
    if not isinstance(part.get("text"), str):
        raise _invalid("must be a string", f"{where}.text")
    return str(part["text"])


def _plain_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise _invalid("must be a list", where)
    return [_plain_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _plain_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise _invalid("must be an object with a 'function'", where)
    arguments = function.get("arguments")
    if isinstance(arguments, str):  # JSON in a string on OpenAI's wire, an object in every template
        arguments = _parse(arguments, f"{where}.function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}


def _parse(arguments: str, where: str) -> Any:
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError) as error:
        raise _invalid(f"is not JSON: {error}", where) from error


def _invalid(what: str, where: str) -> InvalidRequest:
    return InvalidRequest(f"{where} {what}", param=where)
