"""What the gateway costs: added latency, processor time, memory for idle clients, and how fast it fails over.

    python benchmarks/gateway.py [--rate 100 200 300 400 500] [--engines 0 1 8] [--connections 2000]

A child process plays a model server that streams tokens; another is `mii-gateway` in front of it, on a core
of its own. Requests are open-loop: they start at a fixed rate however long the earlier ones take. Measuring
begins when as many streams are open as there will be. One JSON line a measure; loopback only.
"""

import argparse
import asyncio
import resource
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import uvloop

import failover
import idle
import loopback
from fake_replica import Request
from mii.bench.hardware import hardware
from mii.bench.measure import percentile
from rig import CORES, Gateway, Replica, gateway, on_core, replica
from stream_client import LATE, Client, Samples


def main() -> int:
    args = parse_arguments()
    allow_open_files()
    with on_core(CORES[0]), replica() as one, replica() as other:
        lines = [loopback.measure()]
        with gateway(one.port) as front:
            lines += uvloop.run(measure(args, one, front))
        with gateway(one.port, other.port) as front:
            lines += uvloop.run(failover.measure(front, other))
    context: dict[str, Any] = {"bench": "gateway", "date": datetime.now(UTC).isoformat(timespec="seconds")}
    context["hardware"] = hardware()
    for line in lines:
        print(msgspec.json.encode({**context, **line}).decode())
    return int(any(line.get("errors") for line in lines))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    rates = [100.0, 200.0, 300.0, 400.0, 500.0]
    parser.add_argument("--rate", type=float, nargs="+", default=rates, help="requests/s (100 to 500)")
    parser.add_argument(
        "--engines",
        type=int,
        nargs="+",
        default=[0, 1, 8],
        help="that the streams are spread over, whose steps alternate; 0: every answer comes at once (0 1 8)",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="measured per way and load (2)")
    parser.add_argument("--tokens", type=int, default=200, help="per request (200)")
    parser.add_argument("--interval", type=float, default=0.01, help="seconds between tokens (0.01)")
    parser.add_argument("--connections", type=int, default=2000, help="idle ones (2000)")
    args = parser.parse_args()
    if min(*args.rate, args.seconds, args.tokens, args.interval, args.connections) <= 0:
        parser.error("every option must be more than 0, but for --engines")
    if min(args.engines) < 0:
        parser.error("--engines must be 0 or more")
    return args


async def measure(args: argparse.Namespace, one: Replica, front: Gateway) -> list[dict[str, Any]]:
    lines = []
    for engines in args.engines:
        interval = args.interval if engines else 0.0
        request = Request(max_tokens=args.tokens, interval=interval, engines=engines)
        clients = [Client(port, request) for port in (one.port, front.port)]
        lines += [await added_latency(rate, args.seconds, request, clients, front) for rate in args.rate]
    return [*lines, *await idle.measure(front, args.connections)]


async def added_latency(
    rate: float, seconds: float, request: Request, clients: list[Client], front: Gateway
) -> dict[str, Any]:
    """`clients` ask the replica directly and through the gateway."""
    (direct, _), (through, used) = [await load(client, rate, seconds, request, front) for client in clients]
    figures = [summary(samples) for samples in (direct, through)]
    errors = [*direct.errors, *through.errors]
    return {
        "measure": "added_latency",
        "rate": rate,
        **msgspec.structs.asdict(request),
        "requests": through.requests,
        "tokens_per_second": round(rate * request.max_tokens, 1),
        "direct": figures[0],
        "gateway": figures[1],
        "added": {name: difference(figures[1][name], base) for name, base in figures[0].items()},
        "gateway_cpu": used,
        "errors": len(errors),
        "first_error": next(iter(errors), None),
    }


async def load(
    client: Client, rate: float, seconds: float, request: Request, front: Gateway
) -> tuple[Samples, dict[str, float]]:
    """What arrives in so many seconds, after the first streams have ended; the gateway's shares of a core."""
    loop, samples = asyncio.get_running_loop(), Samples()
    before = request.max_tokens * request.interval + LATE
    samples.opens = loop.time() + before
    samples.closes = samples.opens + seconds
    running = asyncio.create_task(client.run(samples, rate=rate, count=int(rate * (before + seconds))))
    await asyncio.sleep(samples.opens - loop.time())
    used = front.cpu_seconds
    await asyncio.sleep(samples.closes - loop.time())
    user, system = (round((b - a) / seconds, 3) for a, b in zip(used, front.cpu_seconds, strict=True))
    await running
    return samples, {"program": user, "kernel": system}


def summary(samples: Samples) -> dict[str, float | None]:
    """Milliseconds."""
    return {
        f"{name}_p{q}_ms": milliseconds(percentile(np.array(times), q))
        for name, times in (("first_token", samples.first_token), ("token", samples.transit))
        for q in (50, 95)
    }


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
