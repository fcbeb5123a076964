"""From chat messages to what chat templates expect. Pure."""

import json
from typing import Any

from mii.errors import InvalidRequest
from mii.server.openai.chat_schema import ChatRequest, Message, ToolCall


def template_messages(request: ChatRequest) -> list[dict[str, Any]]:
    """Messages as templates know them: text contents, no role developer, arguments as objects."""
    return [_message(message, f"messages.{i}") for i, message in enumerate(request.messages)]


def template_tools(request: ChatRequest) -> list[dict[str, Any]] | None:
    """The tools the model may see: none of them with tool_choice "none"."""
    if not request.tools or request.tool_choice == "none":
        return None
    return [tool.model_dump(exclude_none=True) for tool in request.tools]


def _message(message: Message, where: str) -> dict[str, Any]:
    # "developer" is OpenAI's later name of the system role; open models' templates know only the old one.
    role = "system" if message.role == "developer" else message.role
    known: dict[str, Any] = {"role": role, "content": _text(message)}
    if message.name is not None:
        known["name"] = message.name
    if message.tool_call_id is not None:
        known["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        known["tool_calls"] = [
            _tool_call(call, f"{where}.tool_calls.{i}") for i, call in enumerate(message.tool_calls)
        ]
    return known


def _text(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "\n".join(part.text for part in message.content)


def _tool_call(call: ToolCall, where: str) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments, where)}
    return {"id": call.id, "type": call.type, "function": function}


def _arguments(text: str, where: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        param = f"{where}.function.arguments"
        raise InvalidRequest(f"'{param}' should be a JSON object in a string", param=param)
    return arguments
