"""Where a model comes from: the four spellings of `spec.model`."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mii_spec.names import check_subdomain

# What the API server can check; parse_source says the rest, in words.
SOURCE_PATTERN = (
    r"^(pvc://[a-z0-9][-a-z0-9.]*(/.*)?|file:///.+|https://[^\s@]+"
    r"|[A-Za-z0-9][-\w.]*(/[A-Za-z0-9][-\w.]*)?)$"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][-\w.]*(/[A-Za-z0-9][-\w.]*)?", re.ASCII)
_FORMS = "a Hugging Face id (org/name), pvc://claim/path, file:///path or https://host/file.gguf"


@dataclass(frozen=True)
class HubModel:
    """A repository of Hugging Face's hub."""

    id: str


@dataclass(frozen=True)
class VolumeModel:
    """A folder or .gguf file on a PersistentVolumeClaim; `path` is relative and may be empty."""

    claim: str
    path: str


@dataclass(frozen=True)
class FileModel:
    """An absolute path in the server's own filesystem: baked into its image or mounted by podTemplate."""

    path: str


@dataclass(frozen=True)
class UrlModel:
    """One .gguf file, downloaded."""

    url: str


ModelSource = HubModel | VolumeModel | FileModel | UrlModel


def parse_source(text: str) -> ModelSource:
    """ValueError says which spellings there are, or what this one lacks."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _hub(text)
    parsers = {"pvc": _volume, "file": _file, "https": _url}
    if scheme not in parsers:
        raise ValueError(f"unknown scheme {scheme!r}: must be {_FORMS}")
    return parsers[scheme](rest)


def check_source(text: str) -> str:
    """The text itself, if it is a source."""
    parse_source(text)
    return text


def _hub(text: str) -> ModelSource:
    if text.startswith("/"):
        raise ValueError(f"a path is written file://{text}")
    if not _HUB_ID.fullmatch(text) or ".." in text or "--" in text:
        raise ValueError(f"must be {_FORMS}, got {text!r}")
    return HubModel(text)


def _volume(rest: str) -> ModelSource:
    claim, _, path = rest.partition("/")
    try:
        check_subdomain(claim)
    except ValueError as error:
        raise ValueError(f"pvc://claim/path: the claim {error}") from None
    _refuse_parents(path)
    return VolumeModel(claim, path.strip("/"))


def _file(rest: str) -> ModelSource:
    if not rest.startswith("/") or rest == "/":
        raise ValueError(f"a file needs an absolute path: file:///path, got file://{rest}")
    _refuse_parents(rest)
    return FileModel(rest)


def _url(rest: str) -> ModelSource:
    url = urlsplit(f"https://{rest}")
    if not url.hostname:
        raise ValueError("an https:// model needs a host: https://host/file.gguf")
    if "@" in url.netloc:
        raise ValueError("must not carry a user or password: everybody who reads the resource would see it")
    if url.hostname in ("huggingface.co", "hf.co") and not url.path.endswith(".gguf"):
        raise ValueError(f"a Hugging Face model is written by its id: {url.path.strip('/') or 'org/name'}")
    if not url.path.endswith(".gguf"):
        raise ValueError(f"an https:// model must be one .gguf file, got {url.path or '/'}")
    return UrlModel(url.geturl())


def _refuse_parents(path: str) -> None:
    if ".." in path.split("/"):
        raise ValueError("must not climb with '..'")
