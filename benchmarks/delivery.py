"""How long a token is on its way from the engine to an HTTP client: what the API process adds.

    python benchmarks/delivery.py MODEL [--tokens 400]

One stream over HTTP (SSE of /v1/completions). The engine stamps the results of each step as they leave it;
the client, a process of its own, stamps each event as it arrives. Both read the host's monotonic clock. The
difference holds ZeroMQ, detokenising, the SSE event, and both ends of the TCP connection. Prints one JSON
object with percentiles in milliseconds.
"""

import argparse
import asyncio
import json
import sys
import time
import urllib.request
from typing import Any

import uvloop

from mii.bench.hardware import hardware
from mii.bench.measure import percentile
from mii.core import EngineStats, RequestStats
from mii.server.serve import Server
from mii_spec.launch import ServerArgs, add_arguments, from_namespace


class Stamps:
    """An EngineListener that keeps when each token left the engine."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        self._step = 0.0

    def on_step(self, stats: EngineStats) -> None:
        self._step = stats.sent_at

    def on_tokens(self, *, first: bool, seconds: float, count: int) -> None:
        del first, seconds
        self.sent += [self._step] * count

    def on_finished(self, stats: RequestStats) -> None:
        del stats


async def measure(args: ServerArgs, tokens: int) -> list[float]:
    """Seconds on the way, by token."""
    stamps = Stamps()

    async def start(config: Any) -> Any:
        from mii.engine.async_engine import AsyncEngine

        engine = await AsyncEngine.start(config)
        engine.listeners.append(stamps)
        return engine

    server = Server(args, start)
    running = asyncio.create_task(server.run())
    while not server.service.ready:
        if running.done():
            raise SystemExit(f"the server ended with exit code {running.result()}")
        await asyncio.sleep(0.05)
    url = f"http://127.0.0.1:{server.http_port}"
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--client", url, "--tokens", str(tokens)), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await client.communicate()
    server.service.stop_requested.set()
    await running
    arrived = json.loads(printed)
    assert len(arrived) == len(stamps.sent) == tokens, (len(arrived), len(stamps.sent))
    return [there - here for here, there in zip(stamps.sent, arrived, strict=True)]


def client(url: str, tokens: int) -> None:
    """Prints when each event with a token arrived, as JSON."""
    body = {
        "model": "delivery",
        "prompt": [1000] * 16,
        "max_tokens": tokens,
        "stream": True,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(body | {"ignore_eos": True}).encode(),
        {"Content-Type": "application/json"},
    )
    arrived: list[float] = []
    with urllib.request.urlopen(request, timeout=600) as response:
        for line in response:
            if line.startswith(b"data: {"):
                arrived.append(time.monotonic())
    print(json.dumps(arrived))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=400)
    if "--client" in sys.argv:
        parser.add_argument("--client", required=True)
        options = parser.parse_args()
        client(options.client, options.tokens)
        return 0
    add_arguments(parser, ServerArgs)
    parser.set_defaults(port=0, grpc_port=0, served_model_name="delivery")
    options = parser.parse_args()
    args = from_namespace(ServerArgs, options)
    delays = uvloop.run(measure(args, options.tokens))
    result = {
        "bench": "delivery",
        "tokens": options.tokens,
        "milliseconds": {f"p{q}": round(1e3 * percentile(delays, q), 4) for q in (50, 95, 99)},
        "hardware": hardware(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
