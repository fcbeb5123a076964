"""Throughput of the engine alone: all requests at once, in this process, greedy, ignore_eos.

    python benchmarks/offline.py MODEL [--requests 16] [--prompt-tokens 64] [--new-tokens 64] [--spread 0]
                                 [--compare-transformers]

Prints one JSON object. Lengths are drawn from N(mean, spread * mean). --compare-transformers also runs
transformers' generate on the same requests one after another, in the same process and dtype (float32 on a
CPU), and a single stream of both; the figures to look at are then the ratios.
"""

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mii.bench.hardware import hardware
from mii.core import EngineRequest, SamplingParams
from mii.engine.engine import Engine
from mii.models.snapshot import fetch
from mii.server.serve import engine_config
from mii_spec.launch import ServerArgs, add_arguments, from_namespace

Request = tuple[list[int], int]  # prompt, new tokens


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, ServerArgs)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=64, help="mean")
    parser.add_argument("--new-tokens", type=int, default=64, help="mean")
    parser.add_argument("--spread", type=float, default=0.0, help="standard deviation over mean")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare-transformers", action="store_true")
    options = parser.parse_args()
    engine = Engine(engine_config(from_namespace(ServerArgs, options)))
    requests = draw(options, engine.info.vocab_size)
    result: dict[str, Any] = {"bench": "offline", "requests": len(requests), "engine": as_dict(engine)}
    result |= {"prompt_tokens": sum(len(p) for p, _ in requests), "new_tokens": sum(n for _, n in requests)}
    result |= measure(engine, requests)
    if options.compare_transformers:
        result |= compare(engine, options.model, requests, result["seconds"])
    print(json.dumps(result | {"hardware": hardware(), "torch": torch.__version__}))
    return 0


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


def measure(engine: Engine, requests: list[Request]) -> dict[str, float]:
    run_engine(engine, [([1] * 8, 4)])
    seconds = run_engine(engine, requests)
    new = sum(n for _, n in requests)
    return {
        "seconds": seconds,
        "requests_per_second": len(requests) / seconds,
        "output_tokens_per_second": new / seconds,
    }


def run_engine(engine: Engine, requests: list[Request]) -> float:
    """Seconds until every request has its tokens; none may lack any."""
    engine.scheduler.blocks.forget()
    missing = 0
    for index, (prompt, new) in enumerate(requests):
        sampling = SamplingParams(max_tokens=new, temperature=0.0, ignore_eos=True)
        engine.add(EngineRequest(f"bench-{index}", prompt, sampling))
        missing += new
    begun = time.perf_counter()
    while engine.has_work():
        missing -= sum(len(output.token_ids) for output in engine.step())
    assert missing == 0, f"{missing} tokens are missing"
    return time.perf_counter() - begun


def compare(engine: Engine, name: str, requests: list[Request], seconds: float) -> dict[str, float]:
    """Ratios over transformers: of all requests, and of one stream (the median of three each)."""
    truth = load_transformers(name, engine)
    run_transformers(truth, requests[:1])
    theirs = sum(run_transformers(truth, [request]) for request in requests)
    single = statistics.median(run_engine(engine, requests[:1]) for _ in range(3))
    their_single = statistics.median(run_transformers(truth, requests[:1]) for _ in range(3))
    return {
        "transformers_seconds": theirs,
        "speedup_over_sequential_transformers": theirs / seconds,
        "single_stream_tokens_per_second": requests[0][1] / single,
        "single_stream_speedup": their_single / single,
    }


def load_transformers(name: str, engine: Engine) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    snapshot = fetch(name)
    gguf = snapshot.gguf.name if snapshot.gguf else None
    directory = snapshot.gguf.parent if snapshot.gguf else Path(snapshot.directory)
    dtype = getattr(torch, engine.info.dtype)
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=gguf, dtype=dtype)
    return model.to(engine.runner.device).eval()


@torch.inference_mode()
def run_transformers(model: Any, requests: list[Request]) -> float:
    begun = time.perf_counter()
    for prompt, new in requests:
        token_ids = torch.tensor([prompt], device=model.device)
        out = model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
        assert out.shape[1] == len(prompt) + new
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
