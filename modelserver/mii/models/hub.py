"""Models of a Hugging Face hub, through huggingface_hub: its cache, resumption, token and offline mode."""

import glob
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, snapshot_download
from huggingface_hub.utils.tqdm import tqdm

from mii.errors import ModelLoadError
from mii.models.safetensors_index import INDEX, SINGLE, shard_files

log = logging.getLogger(__name__)

_CONFIG = [
    "config.json",
    "generation_config.json",
    "chat_template*",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    INDEX,
]


class _Shown(tqdm):
    """huggingface_hub's bar, but on stderr of any kind (HF_HUB_DISABLE_PROGRESS_BARS still hides it)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"disable": False}))  # type: ignore[no-untyped-call]


class _Hidden(tqdm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"disable": True}))  # type: ignore[no-untyped-call]


def fetch_model(repo: str, revision: str, *, weights: bool, progress: bool | None) -> Path:
    """Config and tokenizer of `repo`, and its safetensors if `weights`; the directory they are in.

    Only the shards that the index names are fetched: repositories often hold the weights twice.
    """
    directory = _fetch(repo, revision, _CONFIG, progress)
    if not (directory / "config.json").exists():
        raise ModelLoadError(_without(repo, revision, "config.json"))
    if weights:
        shards = list(shard_files(directory)) or [SINGLE]
        _fetch(repo, directory.name, [glob.escape(name) for name in shards], progress)
        for name in shards:
            if not (directory / name).exists():
                raise ModelLoadError(_without(repo, directory.name, name))
    return directory


def fetch_file(repo: str, revision: str, file: str, *, progress: bool | None) -> Path:
    """One file of `repo`; the directory of its revision."""
    directory = _fetch(repo, revision, [glob.escape(file)], progress)
    if not (directory / file).exists():
        raise ModelLoadError(_without(repo, revision, file))
    return directory


def _fetch(repo: str, revision: str, patterns: list[str], progress: bool | None) -> Path:
    show = sys.stderr.isatty() if progress is None else progress
    start = time.monotonic()
    nested = any("/" in pattern for pattern in patterns)
    with _explained(repo, revision):
        directory = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=None if nested else ["*/*"],  # "*" crosses directories
            tqdm_class=_Shown if show else _Hidden,
        )
    log.info("%s: %s here after %.1f s", repo, ", ".join(patterns), time.monotonic() - start)
    return Path(directory)


@contextmanager
def _explained(repo: str, revision: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the transport's errors are of another library in each major version
        raise ModelLoadError(_explain(error, repo, revision)) from error


def _explain(error: Exception, repo: str, revision: str) -> str:
    """What went wrong with `repo`, and what to do about it."""
    match error:
        case errors.GatedRepoError():
            return f"{repo} is gated: accept its terms on its page, and set HF_TOKEN to that account's token"
        case errors.RepositoryNotFoundError():
            return f"{repo}: not found on {constants.ENDPOINT}: check the id; if it is private, set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"{repo}: has no branch, tag or commit {revision!r}"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return _unreachable(repo, revision)
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"{repo}: {constants.ENDPOINT} refuses access: set HF_TOKEN to a token that may read it"
        case PermissionError():
            return f"{repo}: cannot write to {error.filename}: set HF_HOME to a writable directory"
    return f"{repo}: download failed ({type(error).__name__}: {error}); start again to go on from there"


def _unreachable(repo: str, revision: str) -> str:
    what = f"{repo} (revision {revision}) is not wholly in the cache {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        return f"{what} and HF_HUB_OFFLINE is set: unset it, or fill the cache first"
    return f"{what} and {constants.ENDPOINT} does not answer: check the network, or name a local directory"


def _without(repo: str, revision: str, file: str) -> str:
    """The message for a repository without `file`, by what it has instead."""
    if constants.HF_HUB_OFFLINE:
        return _unreachable(repo, revision)
    with _explained(repo, revision):
        files = HfApi().list_repo_files(repo, revision=revision)
    ggufs = [name for name in files if name.endswith(".gguf")]
    if ggufs:
        return f"{repo}: has no {file}; name one of its GGUF files: " + ", ".join(
            f"{repo}/{name}" for name in ggufs
        )
    if any(name.endswith(".bin") for name in files):
        return (
            f"{repo}: has only pickled weights (.bin), which are not loaded: use a safetensors version of it"
        )
    return f"{repo}: has no {file}"
