"""What the gateway costs: the latency it adds to a request and to each token, and memory for idle clients.

    python benchmarks/gateway.py [--rate 20 50 100] [--seconds 10] [--connections 500]

A child process plays a model server that streams tokens at a fixed pace; a second one is `mii-gateway` in
front of it. Requests are open-loop: they start at a fixed rate however long the earlier ones take. Direct and
gateway rounds alternate, so that a drifting machine touches both. One JSON line a measure; loopback only.
"""

import argparse
import asyncio
import resource
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import uvloop

from fake_replica import FAR_AWAY, HOST, PATH
from mii.bench.hardware import hardware
from mii.bench.measure import percentile
from rig import Gateway, gateway, replica
from stream_client import Client, Samples

ROUNDS = 2  # of each way
SETTLE_SECONDS = 1.0  # for a process's memory to stop changing


def summary(samples: Samples) -> dict[str, float | None]:
    """Milliseconds."""
    return {
        f"{name}_p{q}_ms": milliseconds(percentile(np.array(times), q))
        for name, times in (("first_token", samples.first_token), ("token", samples.transit))
        for q in (50, 95)
    }


def main() -> int:
    args = parse_arguments()
    allow_open_files()
    with replica() as port, gateway(port) as front:
        lines = uvloop.run(measure(args, port, front))
    context: dict[str, Any] = {"bench": "gateway", "date": datetime.now(UTC).isoformat(timespec="seconds")}
    context["hardware"] = hardware()
    for line in lines:
        print(msgspec.json.encode({**context, **line}).decode())
    return int(any(line.get("errors") for line in lines))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rate", type=float, nargs="+", default=[20.0], help="requests/s (default: 20)")
    parser.add_argument("--seconds", type=float, default=10.0, help="per way and rate (default: 10)")
    parser.add_argument("--tokens", type=int, default=32, help="per request (default: 32)")
    parser.add_argument("--interval", type=float, default=0.02, help="seconds between tokens (default: 0.02)")
    parser.add_argument("--connections", type=int, default=500, help="idle ones (default: 500)")
    args = parser.parse_args()
    if min(*args.rate, args.seconds, args.tokens, args.interval, args.connections) <= 0:
        parser.error("every option must be more than 0")
    return args


async def measure(args: argparse.Namespace, direct: int, front: Gateway) -> list[dict[str, Any]]:
    clients = [Client(port, tokens=args.tokens, interval=args.interval) for port in (direct, front.port)]
    latency = [await added_latency(rate, args, clients, front) for rate in args.rate]
    idle = await memory(front, args.connections, "idle_connection", open_connection)
    streams = await memory(front, args.connections, "idle_stream", open_stream)
    return [*latency, idle, streams]


async def added_latency(
    rate: float, args: argparse.Namespace, clients: list[Client], front: Gateway
) -> dict[str, Any]:
    """`clients` ask the replica directly and through the gateway."""
    for client in clients:  # connections and first-use costs are not what is measured
        await client.run(Samples(), rate=rate, count=max(int(rate), 1))
    ways = Samples(), Samples()
    used = 0.0
    for _ in range(ROUNDS):
        for client, samples in zip(clients, ways, strict=True):
            before = front.cpu_seconds
            await client.run(samples, rate=rate, count=max(int(rate * args.seconds / ROUNDS), 1))
            used += (front.cpu_seconds - before) * (client is clients[-1])
    direct, through = map(summary, ways)
    errors = [error for samples in ways for error in samples.errors]
    tokens = len(ways[1].transit)
    return {
        "measure": "added_latency",
        "rate": rate,
        "requests": ways[1].requests,
        "tokens_per_second": round(rate * args.tokens, 1),
        "direct": direct,
        "gateway": through,
        "added": {name: difference(through[name], base) for name, base in direct.items()},
        "gateway_cpu_us_per_token": round(used / tokens * 1e6, 1) if tokens else None,
        "errors": len(errors),
        "first_error": next(iter(errors), None),
    }


async def memory(
    front: Gateway, count: int, measure: str, open_one: Callable[[int], Awaitable[asyncio.StreamWriter]]
) -> dict[str, Any]:
    """Resident memory of the gateway's process with and without `count` idle clients."""
    before = front.resident_bytes
    writers = [await open_one(front.port) for _ in range(count)]
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


async def open_connection(port: int) -> asyncio.StreamWriter:
    """A client that has connected and says nothing."""
    _, writer = await asyncio.open_connection(HOST, port)
    return writer


async def open_stream(port: int) -> asyncio.StreamWriter:
    """A client that has its first token and waits, long, for the second."""
    reader, writer = await asyncio.open_connection(HOST, port)
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
