"""What the gateway costs: the latency it adds to a request and to each token, and memory for idle clients.

    python benchmarks/gateway.py [--rate 20] [--seconds 10] [--connections 500]

A child process plays a model server that streams tokens at a fixed pace; a second one is `mii-gateway` in
front of it. Requests are open-loop: they start at a fixed rate however long the earlier ones take. Direct and
gateway rounds alternate, so that a drifting machine touches both. One JSON line a measure; loopback only.
"""

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import numpy as np
import uvloop

from fake_replica import FAR_AWAY, HOST, PATH, Token
from mii.bench.hardware import hardware
from mii.bench.measure import percentile
from mii.openai_client import RequestFailed, check_status, connection_failure, new_session
from rig import Gateway, gateway, replica

ROUNDS = 2  # of each way
SETTLE_SECONDS = 1.0  # for a process's memory to stop changing

decode_token = msgspec.json.Decoder(Token).decode


@dataclass
class Samples:
    """Times in seconds."""

    first_token: list[float] = field(default_factory=list)  # from sending the request to its arrival
    transit: list[float] = field(default_factory=list)  # of each token, from the replica's write to arrival
    requests: int = 0
    errors: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, float | None]:
        """Milliseconds."""
        return {
            f"{name}_p{q}_ms": milliseconds(percentile(np.array(samples), q))
            for name, samples in (("first_token", self.first_token), ("token", self.transit))
            for q in (50, 95)
        }


def main() -> int:
    args = parse_arguments()
    allow_open_files()
    with replica() as port, gateway(port) as front:
        lines = uvloop.run(measure(args, f"http://{HOST}:{port}", front))
    context: dict[str, Any] = {"bench": "gateway", "date": datetime.now(UTC).isoformat(timespec="seconds")}
    context["hardware"] = hardware()
    for line in lines:
        print(msgspec.json.encode({**context, **line}).decode())
    return int(any(line.get("errors") for line in lines))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rate", type=float, default=20.0, help="requests/s (default: 20)")
    parser.add_argument("--seconds", type=float, default=10.0, help="per way (default: 10)")
    parser.add_argument("--tokens", type=int, default=32, help="per request (default: 32)")
    parser.add_argument("--interval", type=float, default=0.02, help="seconds between tokens (default: 0.02)")
    parser.add_argument("--connections", type=int, default=500, help="idle ones (default: 500)")
    args = parser.parse_args()
    if min(args.rate, args.seconds, args.tokens, args.interval, args.connections) <= 0:
        parser.error("every option must be more than 0")
    return args


async def measure(args: argparse.Namespace, direct: str, front: Gateway) -> list[dict[str, Any]]:
    async with new_session(timeout=60) as session:
        latency = await added_latency(args, session, direct, front)
    idle = await memory(front, args.connections, "idle_connection", open_connection)
    streams = await memory(front, args.connections, "idle_stream", open_stream)
    return [latency, idle, streams]


async def added_latency(
    args: argparse.Namespace, session: aiohttp.ClientSession, direct: str, front: Gateway
) -> dict[str, Any]:
    ways = {"direct": (direct, Samples()), "gateway": (front.url, Samples())}
    used = 0.0
    for url, _ in ways.values():  # connections and first-use costs are not what is measured
        await open_loop(args, session, url, Samples(), count=int(args.rate))
    for _ in range(ROUNDS):
        for url, samples in ways.values():
            before = front.cpu_seconds
            await open_loop(args, session, url, samples, count=int(args.rate * args.seconds / ROUNDS))
            used += front.cpu_seconds - before
    results = {name: samples.summary() for name, (_, samples) in ways.items()}
    errors = [error for _, samples in ways.values() for error in samples.errors]
    tokens = len(ways["gateway"][1].transit)
    return {
        "measure": "added_latency",
        "rate": args.rate,
        "requests": ways["gateway"][1].requests,
        "tokens_per_second": round(args.rate * args.tokens, 1),
        **results,
        "added": {
            name: difference(results["gateway"][name], base) for name, base in results["direct"].items()
        },
        "gateway_cpu_us_per_token": round(used / tokens * 1e6, 1) if tokens else None,
        "errors": len(errors),
        "first_error": next(iter(errors), None),
    }


async def open_loop(
    args: argparse.Namespace, session: aiohttp.ClientSession, url: str, samples: Samples, *, count: int
) -> None:
    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for index in range(max(count, 1)):
            await asyncio.sleep(max(0.0, start + index / args.rate - time.monotonic()))
            group.create_task(one_request(args, session, url, samples))


async def one_request(
    args: argparse.Namespace, session: aiohttp.ClientSession, url: str, samples: Samples
) -> None:
    samples.requests += 1
    body = {"max_tokens": args.tokens, "interval": args.interval}
    started, first = time.monotonic(), None
    try:
        async with session.post(url + PATH, json=body) as response:
            await check_status(response)
            async for line in response.content:
                if line.startswith(b"data: {"):
                    now = time.monotonic()
                    first = first or now
                    samples.transit.append(now - decode_token(line[6:]).sent)
    except (aiohttp.ClientError, OSError) as error:
        samples.errors.append(str(connection_failure(url, error)))
    except RequestFailed as error:
        samples.errors.append(str(error))
    if first is not None:
        samples.first_token.append(first - started)


async def memory(
    front: Gateway, count: int, measure: str, open_one: Callable[[str], Awaitable[asyncio.StreamWriter]]
) -> dict[str, Any]:
    """Resident memory of the gateway's process with and without `count` idle clients."""
    before = front.resident_bytes
    writers = [await open_one(front.url) for _ in range(count)]
    await asyncio.sleep(SETTLE_SECONDS)
    during = front.resident_bytes
    for writer in writers:
        writer.close()
    return {
        "measure": f"{measure}_memory",
        "connections": count,
        "rss_before_mib": round(before / 2**20, 1),
        "rss_during_mib": round(during / 2**20, 1),
        "kib_per_connection": round((during - before) / count / 1024, 1),
    }


async def open_connection(url: str) -> asyncio.StreamWriter:
    """A client that has connected and says nothing."""
    _, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
    return writer


async def open_stream(url: str) -> asyncio.StreamWriter:
    """A client that has its first token and waits, long, for the second."""
    reader, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
    body = msgspec.json.encode({"max_tokens": 2, "interval": FAR_AWAY})
    head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readuntil(b"data: ")
    return writer


def allow_open_files() -> None:
    """As many as the system lets, here and in the child processes: the usual limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def difference(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else round(value - base, 3)


if __name__ == "__main__":
    sys.exit(main())
