"""From a chat request to what the model's chat template is given. Pure."""

from typing import Any

from mii.server.openai.chat_schema import ChatRequest, Message


def template_messages(request: ChatRequest) -> list[dict[str, Any]]:
    return [_message(message) for message in request.messages]


def template_tools(request: ChatRequest) -> list[dict[str, Any]] | None:
    """The tools the model may see: none of them with tool_choice "none"."""
    if not request.tools or request.tool_choice == "none":
        return None
    return [tool.model_dump(exclude_none=True) for tool in request.tools]


def _message(message: Message) -> dict[str, Any]:
    known = {"content": ""} | message.model_dump(exclude_none=True)
    if message.role == "developer":  # OpenAI's later name; open models' templates know only the old one
        known["role"] = "system"
    return known
