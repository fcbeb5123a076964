"""Chat messages to a prompt, through the model's own Jinja template.

What a template may use is what transformers offers (its chat templating guide): loop controls, `tojson`
without HTML escaping, `raise_exception`, `strftime_now`, {% generation %} blocks, the special tokens by name.
Templates come with models from anywhere, so they run sandboxed.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from mii.errors import InvalidRequest
from mii.models.chat_messages import Message, plain_messages

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

DEFAULT, TOOL_USE = "default", "tool_use"  # the names that transformers chooses among
_RESERVED = ("messages", "tools", "add_generation_prompt")


class ChatTemplate:
    """One named Jinja source; compiled when first used."""

    def __init__(self, source: str) -> None:
        self.source = source

    def render(self, variables: Mapping[str, Any]) -> str:
        """Raises InvalidRequest with the template's own words if it refuses, or fails on, the messages."""
        try:
            return self._compiled.render(variables)
        except Exception as error:  # a template is foreign code: it can raise anything
            raise InvalidRequest(
                f"the model's chat template cannot render these messages: {error}", param="messages"
            ) from error

    @cached_property
    def _compiled(self) -> "Template":
        return _environment().from_string(self.source)


class ChatTemplates:
    """A model's templates by name, with its special tokens ("bos_token": "<s>"...)."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self._templates = {name: ChatTemplate(source) for name, source in sources.items()}
        self._special_tokens = dict(special_tokens)

    @property
    def default(self) -> str | None:
        """The source of the template for plain chats."""
        template = self._templates.get(DEFAULT)
        return template.source if template else None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
        extra: Mapping[str, Any],
    ) -> str:
        """Raises InvalidRequest if there is no template, or as ChatTemplate.render and plain_messages do."""
        if clash := [name for name in _RESERVED if name in extra]:
            raise InvalidRequest(
                f"chat_template_kwargs cannot set {clash[0]!r}: it is a field of the request",
                param="chat_template_kwargs",
            )
        variables = {"documents": None, **self._special_tokens, **extra}
        variables |= {
            "messages": plain_messages(messages),
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._choose(tools).render(variables)

    def _choose(self, tools: list[dict[str, Any]] | None) -> ChatTemplate:
        template = self._templates.get(TOOL_USE) if tools else None
        template = template or self._templates.get(DEFAULT)
        if template is None:
            raise InvalidRequest(
                "this model has no chat template: send a prompt to /v1/completions instead", param="messages"
            )
        return template


@cache
def _environment() -> "ImmutableSandboxedEnvironment":
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks the assistant's words for training; here only its body counts."""

        tags = {"generation"}  # noqa: RUF012 - how Jinja declares it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
