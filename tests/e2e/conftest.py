"""The real programs on a real model: `mii serve` and `mii up` as processes, SmolLM2 on the CPU.

Everything talks to them as users do, over ports. One thread for each engine and a small KV cache: several of
them run on one machine here, and none has much to say.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mii.local import ports

NAME = "smollm2"
QUESTION = "What is the capital of France? Answer in one sentence."
ANSWER = "The capital of France is Paris."
CONTEXT = 1024  # tokens
SMALL = ["--device=cpu", "--cpu-threads=1", "--kv-blocks=64", f"--max-model-len={CONTEXT}"]
START_SECONDS = 200.0  # for loading; about ten on a quiet machine
SECONDS = 60.0  # for everything else


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The first true value of a condition of other processes."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return value


async def eventually(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The same without holding up the event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children(pid: int, *words: str) -> list[psutil.Process]:
    """The descendants of a process; with `words` those whose command line has them after the interpreter."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                if lives(process) and process.cmdline()[1 : 1 + len(words)] == list(words):
                    found.append(process)
    return found


def get(url: str) -> tuple[int, str]:
    """Status and body; status 0 when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Server:
    """A model server at its two ports, whoever has started it."""

    def __init__(self, pid: int, http_port: int, grpc_port: int) -> None:
        self.pid = pid
        self.http_port = http_port
        self.url = f"http://127.0.0.1:{http_port}"
        self.target = f"127.0.0.1:{grpc_port}"

    def engine(self) -> psutil.Process:
        """Its engine's process."""
        return children(self.pid, "-m", "mii.engine.process")[0]

    def metrics(self) -> dict[str, float]:
        """Samples by name; those with labels besides the model's name as `name{value}`."""
        status, text = get(self.url + "/metrics")
        assert status == 200
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = [value for name, value in sample.labels.items() if name != "model_name"]
                samples[sample.name + "".join(f"{{{value}}}" for value in labels)] = sample.value
        return samples

    def running(self) -> float:
        return self.metrics()["mii:num_requests_running"]

    @property
    def ready(self) -> bool:
        return get(self.url + "/health/ready")[0] == 200


class Program:
    """A `mii` command as a process; its output goes to a file."""

    def __init__(self, argv: list[str], log: Path, **env: str) -> None:
        self.log = log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mii.cli", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **env},
            )

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Raises with the program's own words when it ends before the condition holds."""

        def holds_or_ended() -> bool:
            assert self.process.poll() is None, f"it ended before {what}:\n{self.log.read_text()}"
            return bool(condition())

        wait_for(holds_or_ended, what, START_SECONDS)

    def end(self) -> None:
        """However a test left it, neither it nor its children are there afterwards."""
        left = [*children(self.process.pid)]
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        wait_for(lambda: not any(map(lives, left)), "the end of every process")


class Serving(Server):
    """A `mii serve` of the tests' own."""

    def __init__(self, model: Path, log: Path, *options: str) -> None:
        http, grpc = ports.free(2)
        names = [f"--served-model-name={NAME}", f"--deployment-name={NAME}"]
        where = [f"--port={http}", f"--grpc-port={grpc}"]
        self.program = Program(["serve", str(model), *SMALL, *names, *where, *options], log)
        super().__init__(self.program.process.pid, http, grpc)


class Deployment:
    """A `mii up` of the tests' own, with two replicas."""

    def __init__(self, model: Path, folder: Path) -> None:
        http, grpc = ports.free(2)
        self.url = f"http://127.0.0.1:{http}"
        self.target = f"127.0.0.1:{grpc}"
        self.state = folder / "state"
        manifest = folder / "smollm2.yaml"
        manifest.write_text(
            "apiVersion: mii.dev/v1alpha1\n"
            "kind: MIIDeployment\n"
            f"metadata: {{name: {NAME}}}\n"
            "spec:\n"
            f"  model: file://{model}\n"
            f"  servedName: {NAME}\n"
            "  replicas: 2\n"
            f"  engine: {{maxModelLen: {CONTEXT}, args: [--kv-blocks=64, --cpu-threads=1]}}\n"
        )
        argv = ["up", "-f", str(manifest), f"--port={http}", f"--grpc-port={grpc}"]
        # On the CPU even where there are GPUs: the replicas are to be alike everywhere.
        env = {"MII_CACHE_PATH": str(self.state), "CUDA_VISIBLE_DEVICES": ""}
        self.program = Program(argv, folder / "up.log", **env)

    @property
    def pid(self) -> int:
        return self.program.process.pid

    @property
    def ready(self) -> bool:
        return "is ready" in self.program.log.read_text()

    def replicas(self) -> dict[int, Server]:
        """The model servers that run now, by HTTP port, which survives a restart."""
        servers = {}
        for process in children(self.pid, "-m", "mii.cli", "serve"):
            with contextlib.suppress(psutil.Error):  # it has just ended
                argv = process.cmdline()
                http, grpc = (_option(argv, name) for name in ("--port", "--grpc-port"))
                servers[http] = Server(process.pid, http, grpc)
        return servers

    def access_log(self) -> dict[str, dict[str, Any]]:
        """What the gateway says of each finished request, by request id."""
        lines = (self.state / "deployments" / NAME / "logs" / "gateway.log").read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return {entry["request_id"]: entry for entry in entries if "request_id" in entry}


def _option(argv: list[str], name: str) -> int:
    return int(next(word for word in argv if word.startswith(name + "=")).partition("=")[2])


@pytest.fixture(scope="session")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One for all tests that leave it as they found it."""
    serving = Serving(smollm2, tmp_path_factory.mktemp("serve") / "log")
    try:
        serving.program.wait_until(lambda: serving.ready, "it was ready")
        yield serving
    finally:
        serving.program.end()


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., contextlib.AbstractContextManager[Serving]]:
    """A ready server of a model, with options."""

    @contextlib.contextmanager
    def serve(model: Path, *options: str) -> Iterator[Serving]:
        serving = Serving(model, tmp_path / "serve.log", *options)
        try:
            serving.program.wait_until(lambda: serving.ready, "it was ready")
            yield serving
        finally:
            serving.program.end()

    return serve


@pytest.fixture
def own_server(serve: Any, smollm2: Path) -> Iterator[Serving]:
    """One for a test that ends it."""
    with serve(smollm2) as serving:
        yield serving


@pytest.fixture(scope="module")
def deployment(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """`mii up` with two replicas."""
    up = Deployment(smollm2, tmp_path_factory.mktemp("up"))
    try:
        up.program.wait_until(lambda: up.ready, "it was ready")
        yield up
    finally:
        up.program.end()


@pytest.fixture
def client(server: Serving) -> Iterator[openai.OpenAI]:
    """OpenAI's own, which shall not hide failures by trying again."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=SECONDS) as client:
        yield client


@pytest.fixture
async def http() -> Any:
    """A session without limits of its own."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture(name="wait_for", scope="session")
def wait_for_fixture() -> Any:
    return wait_for


@pytest.fixture(name="eventually", scope="session")
def eventually_fixture() -> Any:
    return eventually


@pytest.fixture(name="lives", scope="session")
def lives_fixture() -> Any:
    return lives


@pytest.fixture(name="children", scope="session")
def children_fixture() -> Any:
    return children


@pytest.fixture(name="get", scope="session")
def get_fixture() -> Any:
    return get


@pytest.fixture(scope="session")
def dialogue() -> tuple[str, str]:
    """A question, and what the model says greedily."""
    return QUESTION, ANSWER
