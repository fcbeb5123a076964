"""The local deployments that run on this machine, as files that only their owner can read.

    $MII_CACHE_PATH | $XDG_RUNTIME_DIR/mii | ~/.cache/mii
        └── deployments/NAME/   record.json  owner-token  logs/*.log

A record is believed only while its supervisor lives: process ids are reused, so each is kept with the time
at which the process started.
"""

import hashlib
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import msgspec

from mii.errors import DeploymentNotFoundError, MIIError


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One running deployment."""

    name: str
    model: str
    pid: int  # of the supervisor
    started: str  # when it started, as process_start says it
    host: str
    http_port: int
    grpc_port: int
    replicas: int
    drain_timeout: float  # seconds

    @property
    def alive(self) -> bool:
        return process_start(self.pid) == self.started


def state_dir() -> Path:
    """Where deployments are recorded."""
    if explicit := os.environ.get("MII_CACHE_PATH"):
        return Path(explicit)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "mii"
    return Path.home() / ".cache" / "mii"


def deployment_dir(name: str) -> Path:
    return state_dir() / "deployments" / _file_name(name)


def token_file(name: str) -> Path:
    """The file with the token that gRPC Terminate must present."""
    return deployment_dir(name) / "owner-token"


def log_dir(name: str) -> Path:
    return deployment_dir(name) / "logs"


def prepare(name: str) -> None:
    """Makes the directory of a new deployment, with a fresh owner token and no logs.

    Raises MIIError when a deployment of that name is running.
    """
    directory = deployment_dir(name)
    if (record := _read(directory)) and record.alive:
        raise MIIError(
            f"a deployment named {name!r} is already running (process {record.pid}): "
            f"end it with `mii down {name}`, or choose another name"
        )
    shutil.rmtree(directory, ignore_errors=True)
    log_dir(name).mkdir(parents=True, mode=0o700)
    for part in (directory, directory.parent):
        part.chmod(0o700)
    _write_private(token_file(name), secrets.token_urlsafe(32))


def save(record: Record) -> None:
    """Records a deployment whose directory is prepared."""
    path = deployment_dir(record.name) / "record.json"
    draft = path.with_suffix(".new")
    _write_private(draft, msgspec.json.encode(record).decode())
    draft.replace(path)


def forget(name: str) -> None:
    """Removes the record and the token; the logs stay until the name is used again."""
    for path in (deployment_dir(name) / "record.json", token_file(name)):
        path.unlink(missing_ok=True)


def running() -> list[Record]:
    """The deployments that run now, by name."""
    folder = state_dir() / "deployments"
    directories = sorted(folder.iterdir()) if folder.is_dir() else []
    records = [record for directory in directories if (record := _read(directory))]
    return [record for record in records if record.alive]


def find(name: str) -> Record:
    """The running deployment of that name, or the only one that serves the model of that name."""
    records = running()
    matches = [r for r in records if r.name == name] or [r for r in records if r.model == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(r.name for r in matches)
        raise DeploymentNotFoundError(f"model {name!r} is served by several deployments, name one: {names}")
    known = ", ".join(r.name for r in records) or "none"
    raise DeploymentNotFoundError(f"no local deployment is named {name!r}; running now: {known}")


def process_start(pid: int) -> str | None:
    """When a process started, in the system's own notation; None if there is none (or a zombie)."""
    if sys.platform == "linux":
        return _start_from_proc(pid)
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return started.strip() if started and not state.startswith("Z") else None


def _start_from_proc(pid: int) -> str | None:
    """Fields 3 (state) and 22 (start, in ticks since boot) of /proc/PID/stat, see proc(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the command's name, in parentheses, may contain anything
    return None if fields[0] in "ZX" else fields[19]


def _file_name(name: str) -> str:
    """One for every name, whatever it is: "." and ".." are no file names, nor is anything over 255 bytes."""
    quoted = quote(name, safe="")
    if not name.strip("."):
        quoted = quoted.replace(".", "%2E")
    return quoted if len(quoted) <= 255 else hashlib.sha256(name.encode()).hexdigest()


def _read(directory: Path) -> Record | None:
    try:
        return msgspec.json.decode((directory / "record.json").read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _write_private(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w") as file:
        file.write(text)
