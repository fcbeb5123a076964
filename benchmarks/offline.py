"""Throughput and latency of the engine alone, in this process, with ignore_eos.

    python benchmarks/offline.py MODEL|--shape NAME [options of mii serve] [--requests 16]
        [--prompt-tokens 64] [--new-tokens 64] [--spread 0] [--clients N] [--sampling greedy]
        [--save DIR] [--compare-transformers]

All requests at once, or with --clients a closed loop: so many at a time, the next as soon as one has ended.
Lengths are drawn from N(mean, spread * mean). Prints one JSON object; --save also appends it to a dated
file in DIR. startup_seconds is from opening the engine to its first token, without Python's imports.
--shape draws the weights of a named shape at random (benchmarks/shapes.py); --sampling mii samples as MII
does by default (top_p 0.9). --compare-transformers also runs transformers' generate on the same requests
one after another, in the same process and dtype (float32 on a CPU), and a single stream of both; the
figures to look at are then the ratios.
"""

import argparse
import dataclasses
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import results
import shapes
from mii.bench.measure import Record, summarize
from mii.core import EngineRequest, SamplingParams
from mii.engine.engine import Engine
from mii.engine.leading import open_engine
from mii.server.serve import engine_config
from mii_spec.launch import ServerArgs, add_arguments, from_namespace
from truth import Request, load_transformers, run_transformers

RUNS = itertools.count()
# What a row says elsewhere, or what makes no difference to requests that share nothing.
WORKLOAD_OPTIONS = {
    "model",
    "revision",
    "tokenizer",
    "served_model_name",
    "random_weights",
    "prefix_cache",
    "tensor_parallel",
    "log_level",
}

# The request options of each --sampling; seeds are the requests' numbers.
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "mii": {"temperature": 1.0, "top_p": 0.9},
}


def main() -> int:
    with shapes.in_argv(sys.argv[1:]) as argv:
        options = parser().parse_args(argv)
        args, begun = from_namespace(ServerArgs, options), time.perf_counter()
        with closing(open_engine(engine_config(args))) as engine:
            result = {"bench": "offline", "options": unusual(args)} | bench(engine, options, begun)
    results.report(result, options.save)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(made, ServerArgs)
    add_workload(made, requests=16, prompt_tokens=64, new_tokens=64, spread=0.0)
    made.add_argument("--clients", type=int, help="requests in flight; default: all")
    made.add_argument("--compare-transformers", action="store_true")
    return made


def add_workload(
    made: argparse.ArgumentParser, *, requests: int, prompt_tokens: int, new_tokens: int, spread: float
) -> None:
    """What `draw` and `described` read, with these defaults, and where rows are kept."""
    made.add_argument("--requests", type=int, default=requests)
    made.add_argument("--prompt-tokens", type=int, default=prompt_tokens, help="mean")
    made.add_argument("--new-tokens", type=int, default=new_tokens, help="mean")
    made.add_argument("--spread", type=float, default=spread, help="standard deviation over mean")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--sampling", choices=SAMPLING, default="greedy")
    made.add_argument("--save", type=Path, metavar="DIR")


def described(options: argparse.Namespace) -> dict[str, Any]:
    """The workload, in a row."""
    return {
        "requests": options.requests,
        "workload": f"{options.prompt_tokens}/{options.new_tokens}",
        "spread": options.spread,
        "sampling": options.sampling,
    }


def unusual(args: ServerArgs) -> str | None:
    """The options that are not the defaults, by which a row is told from one of the engine as it comes."""
    fields = [field for field in dataclasses.fields(args) if field.name not in WORKLOAD_OPTIONS]
    found = [(field.name.replace("_", "-"), getattr(args, field.name), field.default) for field in fields]
    return " ".join(spelled(name, value) for name, value, default in found if value != default) or None


def spelled(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {value}"


def bench(engine: Engine, options: argparse.Namespace, begun: float) -> dict[str, Any]:
    [first] = run_engine(engine, [([1] * 8, 4)])
    requests = draw(options, engine.info.vocab_size)
    info = as_dict(engine)
    info["model"] = options.served_model_name or info["model"]  # a shape's name, not where it was written
    result: dict[str, Any] = {"engine": info, "startup_seconds": first.arrivals[0] - begun}
    result |= described(options)
    result |= {"prompt_tokens": sum(len(p) for p, _ in requests), "new_tokens": sum(n for _, n in requests)}
    result |= measure(engine, requests, options.clients, options.sampling)
    if options.compare_transformers:
        result |= compare(engine, options.model, requests, result["seconds"])
    return result


def as_dict(engine: Engine) -> dict[str, Any]:
    return {name: getattr(engine.info, name) for name in engine.info.__struct_fields__}


def draw(options: argparse.Namespace, vocab_size: int) -> list[Request]:
    rng = random.Random(options.seed)

    def length(mean: int) -> int:
        return max(1, round(rng.gauss(mean, options.spread * mean)))

    return [
        (
            [rng.randrange(100, vocab_size) for _ in range(length(options.prompt_tokens))],
            length(options.new_tokens),
        )
        for _ in range(options.requests)
    ]


def measure(
    engine: Engine, requests: list[Request], clients: int | None, sampling: str, limit: float = math.inf
) -> dict[str, Any]:
    records = run_engine(engine, requests, clients, sampling, limit)
    seconds = elapsed(records)
    overall = {
        "seconds": seconds,
        "requests_per_second": len(requests) / seconds,
        "output_tokens_per_second": sum(n for _, n in requests) / seconds,
    }
    return overall if clients is None else overall | dataclasses.asdict(summarize(records, clients=clients))


def run_engine(
    engine: Engine,
    requests: list[Request],
    clients: int | None = None,
    sampling: str = "greedy",
    limit: float = math.inf,
) -> list[Record]:
    """What became of each request, `clients` of which ran at a time. None may lack a token.

    Raises TimeoutError after `limit` seconds; the engine has no work left then either."""
    salt = f"run-{next(RUNS)}"  # finds nothing that an earlier run has left in the prefix cache
    waiting = iter(enumerate(requests))
    running: dict[str, Record] = {}
    records: list[Record] = []
    end = time.perf_counter() + limit
    while True:
        for index, (prompt, new) in take(waiting, (clients or len(requests)) - len(running)):
            params = SamplingParams(max_tokens=new, ignore_eos=True, seed=index, **SAMPLING[sampling])
            engine.add(EngineRequest(f"bench-{index}", prompt, params, cache_salt=salt))
            running[f"bench-{index}"] = Record(started=time.perf_counter(), prompt_tokens=len(prompt))
        if not engine.has_work():
            break
        if time.perf_counter() > end:
            abort(engine, running)
            raise TimeoutError(f"{len(records)} of {len(requests)} requests ended within {limit:g} s")
        for output in engine.step():
            record = running[output.request_id]
            record.ended = time.perf_counter()
            record.arrivals += [record.ended] * len(output.token_ids)
            if output.finish_reason is not None:
                records.append(running.pop(output.request_id))
    for record in records:
        record.new_tokens = len(record.arrivals)
    assert sum(r.new_tokens for r in records) == sum(n for _, n in requests), "tokens are missing"
    return records


def abort(engine: Engine, request_ids: Iterable[str]) -> None:
    for request_id in request_ids:
        engine.abort(request_id)
    while engine.has_work():
        engine.step()


def take(waiting: Iterator[tuple[int, Request]], count: int) -> list[tuple[int, Request]]:
    return [request for _, request in zip(range(count), waiting, strict=False)]


def elapsed(records: list[Record]) -> float:
    """Seconds from the first request's start to the last one's end."""
    return max(r.ended for r in records) - min(r.started for r in records)


def compare(engine: Engine, name: str, requests: list[Request], seconds: float) -> dict[str, float]:
    """Ratios over transformers: of all requests, and of one stream (the median of three each)."""
    truth = load_transformers(name, engine.info.dtype, engine.runner.device)
    run_transformers(truth, requests[:1])
    theirs = sum(run_transformers(truth, [request]) for request in requests)
    single = statistics.median(elapsed(run_engine(engine, requests[:1])) for _ in range(3))
    their_single = statistics.median(run_transformers(truth, requests[:1]) for _ in range(3))
    return {
        "transformers_seconds": theirs,
        "speedup_over_sequential_transformers": theirs / seconds,
        "single_stream_tokens_per_second": requests[0][1] / single,
        "single_stream_speedup": their_single / single,
    }


if __name__ == "__main__":
    sys.exit(main())
