"""A manifest file as one MIIDeployment document."""

import sys
from pathlib import Path
from typing import Any

import yaml

from mii.errors import MIIError


def read(path: str) -> dict[str, Any]:
    """The only document of a YAML file ("-" is standard input), as data.

    Raises MIIError that names the file, and the line of a syntax error or the documents of a longer file.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except (OSError, UnicodeDecodeError) as error:
        raise MIIError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise MIIError(f"{path} is not YAML: {error}") from None
    if len(documents) != 1:
        found = ", ".join(map(_title, documents)) or "nothing"
        raise MIIError(f"{path} must hold one MIIDeployment, but holds: {found}")
    if not isinstance(documents[0], dict):
        raise MIIError(f"{path} must hold a MIIDeployment, but holds {_title(documents[0])}")
    return documents[0]


def _title(document: Any) -> str:
    if not isinstance(document, dict):
        return f"a {type(document).__name__}"
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{document.get('kind', 'no kind')}/{name or 'no name'}"
