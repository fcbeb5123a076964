"""From starting `mii serve` to the first token: weights on local disk and in the page cache.

    python benchmarks/startup.py --shape mistral-7b [--dir DIR] [--serve="options of mii serve"] [--runs 1]
        [--save DIR]

Writes a checkpoint of a named shape (benchmarks/checkpoint.py; 12 s for 14.5 GB) into a directory that it
removes, or into DIR, where it stays and is used again. Reads it once, so that it is in the page cache, and
builds the CUDA kernels if they are not. Then, for each run, starts a server and prints one JSON object:
seconds from the start of the process until /health/ready says so, until the first token of a streamed
completion has arrived, and of each phase that the server's log tells, which add up to that. --save also
appends it to a dated file in DIR.
"""

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import torch

import checkpoint
import results
import shapes
from mii_kernels.build import build
from mii_spec.launch import ServerArgs, add_arguments, from_namespace
from offline import unusual
from rig import HOST, free_ports, ready

LOAD_SECONDS = 600.0  # for a server to load its model
ANSWER_SECONDS = 60.0
READ_BYTES = 16 << 20
REQUEST = {"prompt": "Hello", "max_tokens": 16, "temperature": 0.0, "ignore_eos": True, "stream": True}

# What ends a phase, in the order of the phases: a part of a line of the server's log.
ENDS = {
    "server": " listening on ",
    "engine": " engine: loading ",
    "weights": "loading weights: ",
    "graphs": "captured CUDA graphs",
    "warm_up": "warmed up: ",
}


def main() -> int:
    options = parser().parse_args()
    if torch.cuda.is_available():
        build()
    with contextlib.ExitStack() as stack:
        directory = options.dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mii-")))
        if not checkpoint.is_written(options.shape, directory):
            checkpoint.write(options.shape, directory)
        argv = [str(directory), f"--served-model-name={options.shape}", *shlex.split(options.serve)]
        what = {"bench": "startup", "options": unusual(parsed(argv)), "bytes": read(directory)}
        for _ in range(options.runs):
            results.report(what | measure(argv), options.save)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--shape", choices=shapes.SHAPES, required=True)
    made.add_argument("--dir", type=Path, help="of the checkpoint; default: one that is removed afterwards")
    made.add_argument("--serve", default="", metavar="OPTIONS", help="of mii serve")
    made.add_argument("--runs", type=int, default=1)
    made.add_argument("--save", type=Path, metavar="DIR")
    return made


def parsed(argv: list[str]) -> ServerArgs:
    """What `mii serve` makes of it."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(made, ServerArgs)
    return from_namespace(ServerArgs, made.parse_args(argv))


def read(directory: Path) -> int:
    """The bytes of all weights, which are in the page cache then, if that has room for them."""
    total = 0
    for path in directory.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while part := file.read(READ_BYTES):
                total += len(part)
    return total


def measure(argv: list[str]) -> dict[str, Any]:
    """One start."""
    begun = time.monotonic()
    with serving(argv) as (process, url, log):
        if not ready(process, f"{url}/health/ready", LOAD_SECONDS):
            raise SystemExit("the server did not become ready")
        is_ready = time.monotonic()
        first_token(url)
        answered = time.monotonic()
        with urlopen(f"{url}/v1/info", timeout=ANSWER_SECONDS) as answer:
            engine = json.load(answer)
    engine["model"] = engine.pop("served_model_name")  # the shape's name, not where it was written
    del engine["deployment_name"]
    ends = log.ends | {"ready": is_ready, "first_token": answered}
    times = {"ready_seconds": is_ready - begun, "first_token_seconds": answered - begun}
    return {"engine": engine} | rounded(times) | {"phases": rounded(phases(begun, ends))}


@contextlib.contextmanager
def serving(argv: list[str]) -> "Iterator[tuple[subprocess.Popen[bytes], str, Log]]":
    """A `mii serve` that has just been started, where it will answer, and its log."""
    port, grpc_port = free_ports(2)
    where = [f"--host={HOST}", f"--port={port}", f"--grpc-port={grpc_port}"]
    command = [sys.executable, "-m", "mii.cli", "serve", *argv, *where]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    log = Log(process)
    try:
        yield process, f"http://{HOST}:{port}", log
    finally:
        process.terminate()
        process.wait()
        log.join()


class Log(Thread):
    """Passes a server's log on and notes when the lines came that end a phase."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        super().__init__(daemon=True)
        assert process.stderr is not None
        self._lines = process.stderr
        self.ends: dict[str, float] = {}
        self.start()

    def run(self) -> None:
        for line in self._lines:
            now, text = time.monotonic(), line.decode(errors="replace")
            sys.stderr.write(text)
            for phase, said in ENDS.items():
                if said in text:
                    self.ends.setdefault(phase, now)


def first_token(url: str) -> None:
    """Returns when it has arrived."""
    request = Request(f"{url}/v1/completions", json.dumps(REQUEST).encode())
    request.add_header("Content-Type", "application/json")
    with urlopen(request, timeout=ANSWER_SECONDS) as answer:
        for line in answer:
            if has_text(line):
                return
    raise SystemExit("the answer had no text")


def has_text(line: bytes) -> bool:
    """Whether a line of server-sent events carries any of a completion."""
    name, _, data = line.strip().partition(b": ")
    if name != b"data" or data == b"[DONE]":
        return False
    return any(choice["text"] for choice in json.loads(data)["choices"])


def phases(begun: float, ends: dict[str, float]) -> dict[str, float]:
    """Seconds of each, from the end of the one before."""
    found, before = {}, begun
    for phase, end in sorted(ends.items(), key=lambda item: item[1]):
        found[phase], before = end - before, end
    return found


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
