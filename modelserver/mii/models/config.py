"""A model's configuration: what Hugging Face's config.json says, or would say of a GGUF file."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

from mii.errors import ModelLoadError
from mii.models.snapshot import Snapshot


def load_config(snapshot: Snapshot) -> dict[str, Any]:
    """config.json of `snapshot` as a dictionary, in the spelling that most checkpoints use.

    `eos_token_id` also has generation_config.json's ids (an int, or a list without duplicates). What newer
    versions of transformers call `rope_parameters` and `dtype` is also there as `rope_theta`,
    `rope_scaling` and `torch_dtype`. Raises ModelLoadError naming the file that is missing or corrupt.
    """
    if snapshot.gguf:
        from mii.models.gguf_config import config_from_gguf
        from mii.models.gguf_file import open_gguf

        return config_from_gguf(open_gguf(snapshot.gguf))
    config = with_older_names(_read(snapshot.directory / "config.json"))
    generation = snapshot.directory / "generation_config.json"
    if generation.exists():
        merged = merge_ids(config.get("eos_token_id"), _read(generation).get("eos_token_id"))
        config["eos_token_id"] = merged
    return config


def merge_ids(*ids: int | list[int] | None) -> int | list[int] | None:
    """One id as it is, several as a list in order of first appearance, none as None."""
    lists = [[] if value is None else value if isinstance(value, list) else [value] for value in ids]
    unique = list(dict.fromkeys(chain.from_iterable(lists)))
    return unique[0] if len(unique) == 1 else unique or None


def with_older_names(config: dict[str, Any]) -> dict[str, Any]:
    """Adds the names that transformers used before version 5, where only the newer ones are given."""
    older: dict[str, Any] = {}
    if "dtype" in config:
        older["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    if rope and "rope_theta" in rope:  # else one entry per kind of layer: those families read it themselves
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        older["rope_theta"] = rope["rope_theta"]
        older["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    return older | config


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(f"{path}: missing") from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path}: not readable as JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path}: must be a JSON object, not {type(content).__name__}")
    return content
