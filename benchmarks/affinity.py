"""What prefix-affine routing buys: hits in real servers' prefix caches, on conversations of several turns.

    python benchmarks/affinity.py MODEL [--replicas 4] [--conversations 16] [--turns 5] [--kv-blocks 48]

Starts `mii serve` on the CPU, a thread each. The same conversations are held three times: with the replicas
taken in turn, past the gateway; through the gateway by work alone; and through it with its default, which is
prefix-affine. Every prompt repeats its conversation and the answers so far. Each way has its cache salt, so
none finds what another has left. Prints a JSON object a way; hits and queries are tokens, the sums of the
servers' own counters.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp

from fake_replica import HOST
from mii.bench.hardware import hardware
from mii_gateway.balance import Routing
from rig import free_ports, gateway

WORDS = (
    "time",
    "year",
    "people",
    "way",
    "day",
    "thing",
    "life",
    "child",
    "world",
    "school",
    "state",
    "group",
)
GATEWAY_ROUTING: tuple[Routing, ...] = ("least-work", "auto")
AT_ONCE = 4  # conversations that wait for an answer
START_SECONDS = 300.0


def main() -> int:
    args = parse_arguments()
    with replicas(args) as ports:
        asyncio.run(ready(ports))
        base = asyncio.run(measure(args, ports, "round-robin", ports))
        report(base, base)
        for routing in GATEWAY_ROUTING:
            with gateway(*ports, routing=routing) as front:
                report(asyncio.run(measure(args, ports, routing, [front.port])), base)
    return 0


def report(row: dict[str, Any], base: dict[str, Any]) -> None:
    ratio = round(row["hit_rate"] / base["hit_rate"], 2) if base["hit_rate"] else None
    line = {"bench": "affinity", **row, "over_round_robin": ratio, "hardware": hardware()}
    print(json.dumps(line), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", help="as of `mii serve`")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--conversations", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--turn-words", type=int, default=100, help="that the user says in a turn (100)")
    parser.add_argument("--answer-tokens", type=int, default=16)
    parser.add_argument("--kv-blocks", type=int, default=48, help="of 64 tokens, of each replica (48)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@contextlib.contextmanager
def replicas(args: argparse.Namespace) -> Iterator[list[int]]:
    """Their HTTP ports."""
    ports = free_ports(2 * args.replicas)
    options = ["--device=cpu", "--cpu-threads=1", f"--kv-blocks={args.kv_blocks}", "--served-model-name=m"]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        for http, grpc in zip(ports[::2], ports[1::2], strict=True):
            command = [sys.executable, "-m", "mii.cli", "serve", args.model, *options]
            process = subprocess.Popen([*command, f"--port={http}", f"--grpc-port={grpc}"], stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield ports[::2]


async def ready(ports: list[int]) -> None:
    """Raises TimeoutError."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(START_SECONDS):
        for port in ports:
            while not await answers(session, port):  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.2)


async def answers(session: aiohttp.ClientSession, port: int) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with session.get(f"http://{HOST}:{port}/health/ready") as response:
            return response.status == 200
    return False


async def measure(args: argparse.Namespace, ports: list[int], way: str, targets: list[int]) -> dict[str, Any]:
    """Requests go to `targets` in turn."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        before, began = await counters(session, ports), time.monotonic()
        turn = itertools.cycle(targets)
        await converse(args, session, way, lambda: next(turn))
        seconds = time.monotonic() - began
        hits, queries = (b - a for a, b in zip(before, await counters(session, ports), strict=True))
    figures = {"hits": hits, "queries": queries, "hit_rate": round(hits / queries, 4)}
    shape = {name: value for name, value in vars(args).items() if name != "model"}
    return {"way": way, **figures, "seconds": round(seconds, 1), **shape}


async def converse(
    args: argparse.Namespace, session: aiohttp.ClientSession, salt: str, port: Callable[[], int]
) -> None:
    """Whose turn is next is drawn: a fixed order could suit, or spite, those who take replicas in turn."""
    rng = random.Random(args.seed)
    said: list[list[dict[str, str]]] = [[] for _ in range(args.conversations)]
    waiting = set(range(args.conversations))  # with more to say, and no answer to wait for

    async def talk() -> None:
        while waiting:
            number = rng.choice(sorted(waiting))
            waiting.remove(number)
            words = [f"{number}", *rng.choices(WORDS, k=args.turn_words)]
            said[number].append({"role": "user", "content": " ".join(words)})
            said[number].append(await answer(args, session, port(), said[number], salt))
            if len(said[number]) < 2 * args.turns:
                waiting.add(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(talk())


async def answer(
    args: argparse.Namespace,
    session: aiohttp.ClientSession,
    port: int,
    messages: list[dict[str, str]],
    salt: str,
) -> dict[str, str]:
    """The assistant's message."""
    body = {"model": "m", "messages": messages, "cache_salt": salt, "temperature": 0}
    body |= {"max_tokens": args.answer_tokens}
    async with session.post(f"http://{HOST}:{port}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        content = (await response.json())["choices"][0]["message"]["content"]
    return {"role": "assistant", "content": content}


async def counters(session: aiohttp.ClientSession, ports: list[int]) -> tuple[float, float]:
    """Tokens found in the prefix caches, and looked up, by all replicas so far."""
    return (
        sum([await counter(session, port, "mii:prefix_cache_hits_total") for port in ports]),
        sum([await counter(session, port, "mii:prefix_cache_queries_total") for port in ports]),
    )


async def counter(session: aiohttp.ClientSession, port: int, name: str) -> float:
    async with session.get(f"http://{HOST}:{port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    sys.exit(main())
