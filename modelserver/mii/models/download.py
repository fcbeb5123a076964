"""Download of one file by URL: resumed where it stopped, whole or not at all, its size checked.

Beside `target` lie `target.part`, what has arrived so far, and `….etag`, the version that it belongs to:
HTTP's conditional requests (RFC 9110, sections 13 and 14) tell whether either is still good.
"""

import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from mii.errors import ModelLoadError
from mii.models.progress import Meter
from mii.models.source import shown

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes
SILENCE = 30.0  # seconds without a byte after which a connection counts as broken
ATTEMPTS = 5  # in a row that bring nothing new
_TRANSIENT = (408, 429, 500, 502, 503, 504)


class _Interrupted(Exception):  # noqa: N818
    """The connection failed; trying again may help."""


def download(url: str, target: Path, meter: Meter, *, magic: bytes = b"", pause: float = 1.0) -> None:
    """Makes `target` the file at `url`. Processes that want the same file wait for the first one.

    `magic`: what the file must start with. `pause`: seconds before the first new attempt, doubled for
    each after it. A file that is there already is used if the server says it is unchanged or does not
    answer. Raises ModelLoadError.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not (target.exists() and _current(url, target)):
                _download(url, target, meter, magic, pause)
    except OSError as error:
        raise ModelLoadError(f"{shown(url)}: cannot be stored as {target}: {error}") from error


def _download(url: str, target: Path, meter: Meter, magic: bytes, pause: float) -> None:
    part = target.with_name(target.name + ".part")
    _complete(url, part, meter, pause)
    with part.open("rb") as file:
        start = file.read(len(magic))
    if start != magic:
        _discard(part)
        raise ModelLoadError(f"{shown(url)}: is not a {target.suffix} file: it starts with {start!r}")
    os.replace(part, target)
    os.replace(_etag(part), _etag(target))


def _current(url: str, target: Path) -> bool:
    """Whether the server still has what `target` holds; taken for granted if it does not answer."""
    version = _version(target)
    header = "If-None-Match" if version.startswith('"') else "If-Modified-Since"
    try:
        with _open(url, {header: version} if version else {}) as response:
            return not version and response.length == target.stat().st_size
    except urllib.error.HTTPError as error:
        if error.code == 304:
            return True
        log.warning("%s: the server says %s; using %s", shown(url), error, target)
    except _Interrupted as error:
        log.warning("%s: %s; using %s", shown(url), error, target)
    return True


def _complete(url: str, part: Path, meter: Meter, pause: float) -> None:
    """Fetches what `part` lacks, over as many connections as it takes."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _append(url, part, meter)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not before:
                raise ModelLoadError(_refused(url, error)) from error
            _discard(part)  # nothing follows what it holds: it was complete, or longer than the file
        except _Interrupted as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise ModelLoadError(
                    f"{shown(url)}: download stopped after {_size(part)} bytes ({error});"
                    " start again to go on from there"
                ) from error
            log.warning("%s: %s after %d bytes; trying again", shown(url), error, _size(part))
            time.sleep(pause * 2 ** (failures - 1))


def _append(url: str, part: Path, meter: Meter) -> None:
    """One connection's worth. Starts over if the file changed, or the server cannot resume."""
    have, version = _size(part), _version(part)
    resume = {"Range": f"bytes={have}-", "If-Range": version} if have and version else {}
    with _open(url, resume) as response:
        resumed = response.status == 206 and _first_byte(response) == have
        if response.status == 206 and not resumed:
            _discard(part)
            raise _Interrupted("the server sent another range than was asked for")
        have = have if resumed else 0
        total = None if response.length is None else have + response.length
        _etag(part).write_text(_version_of(response))
        meter.start_at(have, total)
        _copy(response, part, "ab" if resumed else "wb", meter)
    if total is not None and _size(part) != total:
        raise _Interrupted(f"the connection ended before byte {total}")


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Raises HTTPError for an answer that will stay so, _Interrupted for what may pass."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "mii", **headers})
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=SILENCE)
        return response
    except urllib.error.HTTPError as error:
        if error.code in _TRANSIENT:
            raise _Interrupted(f"the server says {error}") from error
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(str(getattr(error, "reason", error))) from error


def _copy(response: http.client.HTTPResponse, part: Path, mode: str, meter: Meter) -> None:
    with part.open(mode) as file:
        while chunk := _read(response):
            file.write(chunk)
            meter.advance(len(chunk))


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(str(error)) from error


def _refused(url: str, error: urllib.error.HTTPError) -> str:
    hints = {401: "it wants authorisation", 403: "it wants authorisation", 404: "check the address"}
    return (
        f"{shown(url)}: the server says {error.code} {error.reason}: {hints.get(error.code, 'cannot go on')}"
    )


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _version_of(response: http.client.HTTPResponse) -> str:
    """What If-Range accepts: a strong ETag, else the date; empty if the server gives neither."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _etag(path: Path) -> Path:
    return path.with_name(path.name + ".etag")


def _version(path: Path) -> str:
    return _etag(path).read_text() if _etag(path).exists() else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _discard(part: Path) -> None:
    part.unlink()
    _etag(part).unlink(missing_ok=True)
