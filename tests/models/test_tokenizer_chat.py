"""Chat templates: rendered as transformers renders them, errors as the API reports them."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from mii.errors import InvalidRequest
from mii.models.snapshot import Snapshot
from mii.models.tokenizer import Tokenizer, load_tokenizer

HELLO = [{"role": "user", "content": "hello"}]
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def transformers_smollm2(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)


@settings(deadline=None)
@given(messages, st.booleans())
def test_smollm2_renders_as_transformers(
    tokenizer: Tokenizer, transformers_smollm2: Any, chat: list[dict[str, Any]], prompt: bool
) -> None:
    theirs = transformers_smollm2.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=prompt) == theirs


def directory(path: Path, template: Any = None, **more: Any) -> Path:
    backend = tokenizers.Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **more}
    if template is not None:
        config["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def load(path: Path, template: Any = None) -> Tokenizer:
    return load_tokenizer(Snapshot("model", "", directory(path, template)))


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m['content'] }}{{ eos_token }}{% endfor %}",
        "{% for m in messages %}\n  {% if loop.last %}{% break %}{% endif %}\n{{ m.content }}\n{% endfor %}",
        "{{ messages | tojson }}{{ tools | tojson(indent=2) }}",
        "{% generation %}{{ messages[0].content | trim }}{% endgeneration %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% if documents %}d{% endif %}{% if thinking is defined %}{{ thinking }}{% endif %}",
        "{{ strftime_now('%Y-%m-%d') }}",
        "{% if tools %}{{ tools[0].function.name }}{% endif %}{{ add_generation_prompt }}",
    ],
)
@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f<>&'\"é"}}]])
def test_renders_as_transformers(tmp_path: Path, template: str, tools: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = load(tmp_path, template)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": " <b>&'é'</b> "}, {"role": "assistant", "content": "2"}]
    expected = theirs.apply_chat_template(
        chat, tools=tools, tokenize=False, add_generation_prompt=True, thinking="hm"
    )
    assert tokenizer.apply_chat_template(chat, tools=tools, extra={"thinking": "hm"}) == expected


def test_where_templates_are_found(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    tokenizer = load(tmp_path, named)
    assert tokenizer.chat_template == "plain"
    assert tokenizer.apply_chat_template(HELLO) == "plain"
    assert tokenizer.apply_chat_template(HELLO, tools=[{}]) == "tools"
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert load(tmp_path, named).apply_chat_template(HELLO) == "from the file"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools from the file")
    assert load(tmp_path).apply_chat_template(HELLO, tools=[{}]) == "tools from the file"


def test_text_parts_become_strings_and_arguments_objects(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, "{{ messages | tojson }}")
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    user, assistant = json.loads(tokenizer.apply_chat_template(chat))
    assert user["content"] == "a\nb"
    assert assistant["content"] is None
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert chat[1]["tool_calls"][0]["function"]["arguments"] == '{"x": 1}'  # the caller's stay as they are


@pytest.mark.parametrize(
    ("chat", "param"),
    [
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages[0].content[0].type",
        ),
        (
            [*HELLO, {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}],
            "messages[1].content[1].type",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([], "messages"),
        ([{"content": "x"}], "messages[0]"),
        (["x"], "messages[0]"),
        ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0]"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_is_not_text_is_refused_by_name(tokenizer: Tokenizer, chat: list[Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.apply_chat_template(chat)
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ range(10**9) | list }}", "too big"),
    ],
)
def test_a_failing_template_is_an_invalid_request(tmp_path: Path, template: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        load(tmp_path, template).apply_chat_template(HELLO)
    assert caught.value.param == "messages"


def test_no_template(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    assert tokenizer.chat_template is None
    with pytest.raises(InvalidRequest, match="no chat template"):
        tokenizer.apply_chat_template(HELLO)


def test_variables_cannot_replace_the_messages(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="'messages'") as caught:
        tokenizer.apply_chat_template(HELLO, extra={"messages": []})
    assert caught.value.param == "chat_template_kwargs"
