"""A manifest file as one MIIDeployment document."""

import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mii.errors import MIIError

MOST_VALUES = 10_000  # far more than any manifest; aliases make billions of a few lines


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is given twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read(path: str) -> dict[str, Any]:
    """The only document of a YAML file ("-" is standard input), as data.

    Raises MIIError that names the file, and the line of a syntax error or the documents of a longer file.
    What it returns is a tree of a bounded size, whatever aliases the file has.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        documents = [d for d in yaml.load_all(text, _Loader) if d is not None]
    except (OSError, UnicodeDecodeError) as error:
        raise MIIError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise MIIError(f"{path} is not YAML: {error}") from None
    except RecursionError:
        raise MIIError(f"{path} is nested too deeply") from None
    _check_values(path, documents)
    if len(documents) != 1:
        found = ", ".join(map(_title, documents)) or "nothing"
        raise MIIError(f"{path} must hold one MIIDeployment, but holds: {found}")
    if not isinstance(documents[0], dict):
        raise MIIError(f"{path} must hold a MIIDeployment, but holds {_title(documents[0])}")
    return documents[0]


def _check_values(path: str, documents: list[Any]) -> None:
    """Counts what aliases stand for as often as they do; a value within itself never ends."""
    unseen, count = list(documents), 0
    while unseen:
        value = unseen.pop()
        count += 1
        if count > MOST_VALUES:
            raise MIIError(f"{path} holds more than {MOST_VALUES} values, with what its aliases stand for")
        if isinstance(value, dict):
            unseen += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            unseen += value
        elif isinstance(value, str) and "\0" in value:
            raise MIIError(f"{path} holds a NUL character, in {value!r}")


def _title(document: Any) -> str:
    if not isinstance(document, dict):
        return f"a {type(document).__name__}"
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{document.get('kind', 'no kind')}/{name or 'no name'}"
