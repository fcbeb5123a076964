"""Which safetensors files a model's directory has to have."""

import json
from pathlib import Path

from mii.errors import ModelLoadError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def shard_files(directory: Path) -> dict[str, list[str]]:
    """File name -> the tensors that the index says are in it; one file and [] where there is no index.

    Empty if the directory has no safetensors. Raises ModelLoadError if the index is not one.
    """
    path = directory / INDEX
    if not path.exists():
        return {SINGLE: []} if (directory / SINGLE).exists() else {}
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            shards.setdefault(_plain(file), []).append(name)
        return shards
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{path}: not a safetensors index ({error!r}); download it again") from error


def _plain(file: str) -> str:
    """Refuses an index that points out of its directory."""
    if Path(file).name != file:
        raise ValueError(f"{file!r} is not a file name")
    return file
