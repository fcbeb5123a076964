"""A Hugging Face tokenizer's files: tokenizer.json, tokenizer_config.json and the small ones beside them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from mii.errors import ModelLoadError
from mii.models.chat_template import DEFAULT
from mii.models.tokenizer_parts import TokenizerParts, bos_eos_processor

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_tokenizer_files(directory: Path) -> TokenizerParts:
    """Raises ModelLoadError naming the file that is missing, malformed or at odds with another."""
    config = _read_json(directory / "tokenizer_config.json")
    special = _special_tokens(_read_json(directory / "special_tokens_map.json") | config)
    backend = _backend(directory, config, special)
    _add_declared_tokens(backend, config.get("added_tokens_decoder") or {}, directory)
    _mark_special(backend, [*special.values(), *_extra_special(config)])
    return TokenizerParts(
        source=str(directory),
        backend=backend,
        special_tokens=special,
        eos_token_ids=_eos_token_ids(directory, backend.token_to_id(special.get("eos_token", ""))),
        chat_templates=_chat_templates(directory, config),
    )


def _backend(directory: Path, config: Mapping[str, Any], special: Mapping[str, str]) -> tokenizers.Tokenizer:
    """With a tokenizer.json its post-processor says whether texts start with BOS, whatever `add_bos_token`
    says in `config`; so it is in transformers."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return _gpt2_backend(directory, config, special)
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise ModelLoadError(f"{path}: not a tokenizer of the tokenizers library: {error}") from error
    backend.no_truncation()  # both are training settings that some models ship
    backend.no_padding()
    return backend


def _gpt2_backend(
    directory: Path, config: Mapping[str, Any], special: Mapping[str, str]
) -> tokenizers.Tokenizer:
    """From the two files of GPT-2's first release, all that OPT has."""
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    is_gpt2 = config.get("tokenizer_class") in ("GPT2Tokenizer", "GPT2TokenizerFast")
    if not (is_gpt2 and vocabulary.is_file() and merges.is_file()):
        raise ModelLoadError(_missing(directory))
    try:
        backend = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # as above
        raise ModelLoadError(f"{vocabulary} with {merges.name}: not GPT-2's files: {error}") from error
    prefix = bool(config.get("add_prefix_space", False))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = tokenizers.decoders.ByteLevel()
    bos = special.get("bos_token") if config.get("add_bos_token") else None
    backend.post_processor = bos_eos_processor(backend, bos=bos, eos=None)
    return backend


def _missing(directory: Path) -> str:
    message = f"{directory}: no tokenizer: looked for tokenizer.json, and GPT-2's vocab.json with merges.txt"
    if not (directory / "tokenizer.model").is_file():
        return message
    return (
        f"{message}; tokenizer.model alone is not read here, convert it once: "
        "transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Empty if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path}: must hold a JSON object, not a {type(content).__name__}")
    return content


def _content(token: Any) -> str | None:
    """Tokens are written as strings or as {"content": …} objects."""
    return token.get("content") if isinstance(token, Mapping) else token


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = {role: _content(config.get(role)) for role in ROLES}
    return {role: token for role, token in found.items() if token}


def _extra_special(config: Mapping[str, Any]) -> list[str]:
    extra = config.get("additional_special_tokens") or []
    return [token for token in map(_content, extra) if token]


def _add_declared_tokens(backend: tokenizers.Tokenizer, declared: Mapping[str, Any], directory: Path) -> None:
    """Adds the tokens of tokenizer_config.json that tokenizer.json lacks."""
    known = backend.get_added_tokens_decoder()
    missing = {int(i): entry for i, entry in declared.items() if int(i) not in known}
    backend.add_tokens([_added_token(missing[i]) for i in sorted(missing)])
    for i, entry in missing.items():
        if (actual := backend.token_to_id(entry["content"])) != i:
            raise ModelLoadError(
                f"{directory / 'tokenizer_config.json'}: added token {entry['content']!r} has id {i}, "
                f"but by tokenizer.json it has {actual}"
            )


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(entry["content"], **{flag: entry[flag] for flag in flags if flag in entry})


def _mark_special(backend: tokenizers.Tokenizer, tokens: Iterable[str]) -> None:
    """Makes tokens of the vocabulary whole and special; a name that is not in it stays text."""
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    new = [token for token in tokens if token not in added and backend.token_to_id(token) is not None]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in new])


def _eos_token_ids(directory: Path, own: int | None) -> tuple[int, ...]:
    """The tokenizer's and the model's; chat models often have several."""
    ids: list[int | None] = [own]
    for name in ("generation_config.json", "config.json"):
        declared = _read_json(directory / name).get("eos_token_id")
        ids += declared if isinstance(declared, list) else [declared]
    return tuple(dict.fromkeys(i for i in ids if i is not None))


def _chat_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    templates = _configured_templates(config.get("chat_template"))
    if (path := directory / "chat_template.jinja").is_file():  # wins, as in transformers
        templates[DEFAULT] = path.read_text(encoding="utf-8")
    for path in sorted(directory.glob("additional_chat_templates/*.jinja")):
        templates[path.stem] = path.read_text(encoding="utf-8")
    return templates


def _configured_templates(configured: str | list[dict[str, str]] | None) -> dict[str, str]:
    if isinstance(configured, list):
        return {entry["name"]: entry["template"] for entry in configured}
    return {} if configured is None else {DEFAULT: configured}
