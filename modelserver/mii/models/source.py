"""What a model's name means: a local path, a Hugging Face repository (or a file in one), or a URL."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mii.errors import ModelLoadError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/(?:resolve|blob)/(?P<revision>[^/]+)/(?P<file>.+)")
_FORMS = (
    "a Hugging Face id (org/name), org/name/file.gguf, a directory, a .gguf file, file:///path,"
    " or the https:// URL of a .gguf file"
)


@dataclass(frozen=True)
class LocalPath:
    path: Path  # exists


@dataclass(frozen=True)
class HubModel:
    repo: str  # "org/name"
    revision: str
    file: str | None = None  # a .gguf in it; None: the safetensors checkpoint


@dataclass(frozen=True)
class RemoteFile:
    url: str  # of a .gguf


def parse_source(model: str, revision: str, *, endpoint: str) -> LocalPath | HubModel | RemoteFile:
    """Reads `model`. An existing path wins over a Hugging Face id of the same spelling.

    `endpoint` is the hub's address: a URL of a file on it is the same as naming repository and file, so
    that the hub's cache and token are used. Raises ModelLoadError if `model` is none of the forms.
    """
    if "://" in model:
        return _url(model, revision, endpoint)
    path = Path(model).expanduser()
    if model and path.exists():
        return _whole(LocalPath(path.absolute()), model, revision)
    if path.is_absolute() or model.startswith(("./", "../", "~")):
        raise ModelLoadError(f"{model}: no such file or directory")
    return _hub(model, revision)


def _url(model: str, revision: str, endpoint: str) -> LocalPath | HubModel | RemoteFile:
    url = urlsplit(model)
    if url.scheme == "file":
        return _file_url(model, revision)
    if url.scheme not in ("https", "http"):
        raise ModelLoadError(f"{model}: {url.scheme}:// is not supported; a model is {_FORMS}")
    if not url.path.endswith(".gguf"):
        raise ModelLoadError(f"{shown(model)}: only .gguf files are loaded by URL; a model is {_FORMS}")
    if "@" in url.netloc:
        raise ModelLoadError(f"{shown(model)}: a URL with a user or password is not supported")
    on_hub = _HUB_FILE.fullmatch(unquote(model.removeprefix(endpoint.rstrip("/")).partition("?")[0]))
    if on_hub:
        return HubModel(on_hub["repo"], on_hub["revision"], on_hub["file"])
    return _whole(RemoteFile(model), shown(model), revision)


def _file_url(model: str, revision: str) -> LocalPath | HubModel | RemoteFile:
    url = urlsplit(model)
    path = Path(unquote(url.path))
    if url.netloc not in ("", "localhost") or not path.is_absolute():
        raise ModelLoadError(f"{model}: must be file:///absolute/path")
    if not path.exists():
        raise ModelLoadError(f"{model}: no such file or directory")
    return _whole(LocalPath(path), model, revision)


def _hub(model: str, revision: str) -> HubModel:
    org, _, rest = model.partition("/")
    name, _, file = rest.partition("/")
    repo = f"{org}/{name}" if rest else org
    if model.endswith(".gguf") and not file:
        raise ModelLoadError(f"{model}: no such file")
    if not _REPO.fullmatch(repo) or (file and not file.endswith(".gguf")) or ".." in file.split("/"):
        raise ModelLoadError(f"{model!r}: no such path, and not a model's name; a model is {_FORMS}")
    return HubModel(repo, revision, file or None)


def _whole(source: LocalPath | RemoteFile, model: str, revision: str) -> LocalPath | RemoteFile:
    """Paths and plain URLs have no revisions."""
    if revision != "main":
        raise ModelLoadError(f"{model}: revision {revision!r} applies to Hugging Face models only")
    return source


def shown(model: str) -> str:
    """A model's name as it may be told: a URL without its query and user, which may hold secrets."""
    if "://" not in model:
        return model
    parts = urlsplit(model)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
