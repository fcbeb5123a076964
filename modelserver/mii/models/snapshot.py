"""A model's files on this machine, wherever they come from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from mii.errors import ModelLoadError
from mii.models.source import HubModel, LocalPath, RemoteFile, parse_source, shown


@dataclass(frozen=True)
class Snapshot:
    model: str  # as it was asked for
    revision: str  # the commit of a Hugging Face model; "" for a path or a URL
    directory: Path  # config, tokenizer, weights; of a .gguf: where the file lies
    gguf: Path | None = None  # everything is in this one file


def fetch(
    model: str, revision: str = "main", *, weights: bool = True, progress: bool | None = None
) -> Snapshot:
    """Brings `model` here, unless it is here already; an interrupted download goes on where it stopped.

    `model`: a Hugging Face id, org/name/file.gguf, a directory, a .gguf file, file:// or the https:// URL of
    a .gguf. `revision`: branch, tag or commit, of Hugging Face models only. Without `weights`, config and
    tokenizer only (a .gguf holds all in one). `progress`: show bars; None: if stderr is a terminal.
    huggingface_hub's HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT are honoured. Raises ModelLoadError
    that says what to do.
    """
    from huggingface_hub import constants

    source = parse_source(model, revision, endpoint=constants.ENDPOINT)
    match source:
        case LocalPath(path):
            return _local(model, path, weights=weights)
        case RemoteFile(url):
            return _file(model, _download(url, Path(constants.HF_HOME), progress))
        case HubModel():
            return _from_hub(model, source, weights=weights, progress=progress)


def _local(model: str, path: Path, *, weights: bool) -> Snapshot:
    from mii.models.safetensors_index import shard_files

    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelLoadError(f"{path}: is not a .gguf file; name the directory of a safetensors model")
        return _file(model, path)
    ggufs = sorted(path.glob("*.gguf"))
    if (path / "config.json").exists() and (not weights or shard_files(path)):
        return Snapshot(model, "", path)
    if len(ggufs) == 1:
        return _file(model, ggufs[0])
    raise ModelLoadError(f"{path}: {_what_is_wrong(path, ggufs)}")


def _what_is_wrong(directory: Path, ggufs: list[Path]) -> str:
    if ggufs:
        return f"has several GGUF files, name one of them: {', '.join(file.name for file in ggufs)}"
    if not (directory / "config.json").exists():
        return "has no config.json and no .gguf file"
    if any(directory.glob("*.bin")):
        return "has only pickled weights (.bin), which are not loaded: convert them to safetensors"
    return "has a config.json but no model.safetensors, model.safetensors.index.json or .gguf file"


def _file(model: str, path: Path, revision: str = "") -> Snapshot:
    return Snapshot(model, revision, path.parent, path)


def _from_hub(model: str, source: HubModel, *, weights: bool, progress: bool | None) -> Snapshot:
    from mii.models import hub

    if source.file:
        directory = hub.fetch_file(source.repo, source.revision, source.file, progress=progress)
        return _file(model, directory / source.file, directory.name)
    directory = hub.fetch_model(source.repo, source.revision, weights=weights, progress=progress)
    return Snapshot(model, directory.name, directory)  # the hub's cache names directories by commit


def _download(url: str, cache: Path, progress: bool | None) -> Path:
    from huggingface_hub import constants

    from mii.models.download import download
    from mii.models.progress import transfer_progress

    name = PurePosixPath(unquote(urlsplit(url).path)).name
    target = cache / "mii" / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    if constants.HF_HUB_OFFLINE:
        if not target.exists():
            raise ModelLoadError(f"{shown(url)}: HF_HUB_OFFLINE is set and it was not downloaded before")
        return target
    with transfer_progress(f"downloading {name}", show=progress) as meter:
        download(url, target, meter, magic=b"GGUF")
    return target
