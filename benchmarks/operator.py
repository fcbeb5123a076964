"""How the operator fares with many MIIDeployments: changes at a steady rate, on a cluster of fake nodes.

    eval "$(../shared/devcluster/up --control-plane --fake-nodes 200)"
    kubectl create --validate=false -f crds/miideployments.yaml
    python benchmarks/operator.py --resources 200 --replicas 5 --rate 10 --changes 200

One JSON object a line: creation (until all is applied, until all are ready), idleness (requests in it), and
changes. Latency is the operator's own histogram, from hearing of a change to everything applied; its
quantiles are upper bounds of buckets.
"""

import argparse
import asyncio
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from mii_operator.kube import ApiError, Kube

API, KIND = "mii.dev/v1alpha1", "MIIDeployment"
LATENCY = "mii_operator_change_to_applied_seconds"
_NAMESPACE = f"mii-bench-{uuid.uuid4().hex[:6]}"


class Operator:
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = psutil.Process(process.pid)
        self._port = port

    async def metrics(self) -> dict[str, float]:
        url = f"http://127.0.0.1:{self._port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            lines = (await reply.text()).splitlines()
        return {name: float(value) for name, value in (li.rsplit(" ", 1) for li in lines if li[0] != "#")}

    def cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def megabytes(self) -> float:
        return round(self._process.memory_info().rss / 1e6, 1)


class Span:
    """What the operator did between two moments."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def start(self) -> "Span":
        self._before, self._cpu = await self._operator.metrics(), self._operator.cpu_seconds()
        self._at = time.monotonic()
        return self

    async def end(self, what: str, **more: Any) -> None:
        after = await self._operator.metrics()
        delta = {name: value - self._before.get(name, 0) for name, value in after.items()}
        seconds = time.monotonic() - self._at
        reconciles = delta["mii_operator_reconcile_seconds_count"]
        sent = {k: v for k, v in delta.items() if "api_requests_total" in k and 'kind="Lease"' not in k}
        writes = sum(v for k, v in sent.items() if re.search(r'verb="(apply|status|create|delete|dry)', k))
        row = {
            "bench": what,
            "seconds": round(seconds, 2),
            "reconciles": reconciles,
            "requests": sum(sent.values()),
            "writes": writes,
            "p50_s": quantile(delta, 0.5),
            "p99_s": quantile(delta, 0.99),
            "cpu_share": round((self._operator.cpu_seconds() - self._cpu) / seconds, 3),
            "rss_mb": self._operator.megabytes(),
            "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        }
        print(json.dumps({**row, **more}), flush=True)


def quantile(delta: dict[str, float], share: float) -> float | None:
    """The upper bound of the bucket in which the quantile lies; None without a sample, or above all."""
    count = delta.get(f"{LATENCY}_count", 0)
    buckets = {k: v for k, v in delta.items() if k.startswith(f"{LATENCY}_bucket")}
    bounds = ((name.split('"')[1], value) for name, value in buckets.items())
    return next((float(b) for b, v in bounds if count and v >= share * count and b != "+Inf"), None)


async def main(args: argparse.Namespace) -> None:
    async with Kube() as kube, namespace(kube), operator() as subject:
        names = [f"m{index:04d}" for index in range(args.resources)]
        span = await Span(subject).start()
        await paced(names, args.rate, lambda name: write(kube, name, args.replicas, 1024))
        wanted = 2 * len(names)
        applied = await until(lambda: count(kube, "apps/v1", "Deployment"), wanted)
        ready = await until(lambda: count_ready(kube), len(names))
        await span.end("create", applied_after_s=applied, ready_after_s=ready, **vars(args))
        span = await Span(subject).start()
        await asyncio.sleep(args.idle)
        await span.end("idle")
        span = await Span(subject).start()
        targets = [names[index % len(names)] for index in range(args.changes)]
        await paced(targets, args.rate, lambda name: write(kube, name, args.replicas, 2048))
        await asyncio.sleep(3)
        await span.end("change", rate=args.rate)


async def paced(names: list[str], rate: float, action: Any) -> None:
    started = time.monotonic()
    for index, name in enumerate(names):
        await asyncio.sleep(max(0.0, started + index / rate - time.monotonic()))
        await action(name)


async def write(kube: Kube, name: str, replicas: int, length: int) -> None:
    spec = {"model": "file:///m", "gpus": 1, "replicas": replicas, "engine": {"maxModelLen": length}}
    metadata = {"name": name, "namespace": _NAMESPACE}
    await kube.apply({"apiVersion": API, "kind": KIND, "metadata": metadata, "spec": spec}, manager="bench")


async def count(kube: Kube, api_version: str, kind: str) -> int:
    return len(await kube.list(api_version, kind, _NAMESPACE))


async def count_ready(kube: Kube) -> int:
    found = await kube.list(API, KIND, _NAMESPACE)
    states = ({c["type"]: c["status"] for c in i.get("status", {}).get("conditions", ())} for i in found)
    return sum(state.get("Ready") == "True" for state in states)


async def until(probe: Any, wanted: int, seconds: float = 300) -> float:
    """Seconds until `probe` counts `wanted`."""
    started = time.monotonic()
    while await probe() < wanted:
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"{await probe()} of {wanted} after {seconds} s")
        await asyncio.sleep(0.5)
    return round(time.monotonic() - started, 2)


@asynccontextmanager
async def namespace(kube: Kube) -> AsyncIterator[None]:
    item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}}
    stored = await kube.apply(item, manager="bench")
    try:
        yield
    finally:
        try:
            await kube.delete(stored)
        except ApiError as error:
            print(error, file=sys.stderr)


@asynccontextmanager
async def operator() -> AsyncIterator[Operator]:
    command = [
        sys.executable,
        "-m",
        "mii_operator.main",
        "--metrics-port=0",
        f"--lease-namespace={_NAMESPACE}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stderr=stderr)  # noqa: ASYNC220 - ends with the bench
        try:
            while not (found := re.search(r"on port (\d+)", log.read_text())):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            subject = Operator(process, int(found[1]))
            await until(lambda: leads(subject), 1)
            yield subject
        finally:
            process.terminate()
            process.wait(timeout=20)
            failures = [line for line in log.read_text().splitlines() if '"level": "info"' not in line]
            print("\n".join(failures[:20]), file=sys.stderr)


async def leads(subject: Operator) -> float:
    return (await subject.metrics()).get("mii_operator_leader", 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resources", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=5)
    parser.add_argument("--rate", type=float, default=10.0, help="changes a second")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of idleness to watch")
    asyncio.run(main(parser.parse_args()))
