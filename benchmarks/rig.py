"""The processes that benchmarks/gateway.py measures: a fake replica and `mii-gateway` in front of it."""

import contextlib
import multiprocessing
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.error import URLError
from urllib.request import urlopen

import psutil

import fake_replica
from fake_replica import HOST
from mii_spec.launch import GatewayArgs, to_argv

START_SECONDS = 20.0


@dataclass(frozen=True)
class Gateway:
    port: int
    process: psutil.Process

    @property
    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def resident_bytes(self) -> int:
        return int(self.process.memory_info().rss)


@contextlib.contextmanager
def replica() -> Iterator[int]:
    """Its port."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=fake_replica.main, args=(theirs,), daemon=True)
    process.start()
    try:
        if not ours.poll(START_SECONDS):
            raise SystemExit("the fake replica did not start")
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


@contextlib.contextmanager
def gateway(replica_port: int) -> Iterator[Gateway]:
    """A gateway that has found its replica. What it logs is shown only if it does not start."""
    port, grpc_port, probe_port = free_ports(3)
    args = GatewayArgs(
        deployment_name="bench",
        host=HOST,
        port=port,
        grpc_port=grpc_port,
        probe_port=probe_port,
        replica=(f"{HOST}:{replica_port}/{grpc_port}",),  # nothing speaks gRPC here
        log_level="warning",
    )
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "mii_gateway.app", *to_argv(args)]
        process = subprocess.Popen(command, stderr=log)
        try:
            if not ready(process, f"http://{HOST}:{port}/health/ready"):
                log.seek(0)
                raise SystemExit(f"the gateway did not become ready:\n{log.read()}")
            yield Gateway(port, psutil.Process(process.pid))
        finally:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def ready(process: subprocess.Popen[bytes], url: str, seconds: float = START_SECONDS) -> bool:
    """Whether the process answers at `url` in time."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(URLError, OSError), urlopen(url, timeout=1) as answer:
            if answer.status == 200:
                return True
        time.sleep(0.05)
    return False
