"""The processes that benchmarks/gateway.py measures: fake replicas and `mii-gateway` in front of them.

The gateway has the machine's last core, everything else the first.
"""

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from urllib.error import URLError
from urllib.request import urlopen

import psutil

import fake_replica
from fake_replica import HOST
from mii_gateway.balance import Routing
from mii_spec.launch import GatewayArgs, to_argv

START_SECONDS = 20.0
CORES = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Gateway:
    port: int
    probe_port: int
    process: psutil.Process

    @property
    def cpu_seconds(self) -> tuple[float, float]:
        """In the program and in the kernel."""
        times = self.process.cpu_times()
        return float(times.user), float(times.system)

    @property
    def resident_bytes(self) -> int:
        return int(self.process.memory_info().rss)


@dataclass(frozen=True)
class Replica:
    port: int
    process: SpawnProcess


@contextlib.contextmanager
def replica() -> Iterator[Replica]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=fake_replica.main, args=(theirs,), daemon=True)
    with on_core(CORES[0]):
        process.start()
    try:
        if not ours.poll(START_SECONDS):
            raise SystemExit("the fake replica did not start")
        yield Replica(ours.recv(), process)
    finally:
        process.terminate()
        process.join()


@contextlib.contextmanager
def gateway(*replicas: int, routing: Routing = "auto") -> Iterator[Gateway]:
    """A gateway in front of these HTTP ports, one of which it has found.

    What it logs is shown only if it does not start.
    """
    port, grpc_port, probe_port = free_ports(3)
    args = GatewayArgs(
        deployment_name="bench",
        host=HOST,
        port=port,
        grpc_port=grpc_port,
        probe_port=probe_port,
        replica=tuple(f"{HOST}:{replica}/{grpc_port}" for replica in replicas),  # no gRPC here
        routing=routing,
        log_level="warning",
    )
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "mii_gateway.app", *to_argv(args)]
        with on_core(CORES[-1]):
            process = subprocess.Popen(command, stderr=log)
        try:
            if not ready(process, f"http://{HOST}:{port}/health/ready"):
                log.seek(0)
                raise SystemExit(f"the gateway did not become ready:\n{log.read()}")
            yield Gateway(port, probe_port, psutil.Process(process.pid))
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process, and those that it starts meanwhile for good."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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
