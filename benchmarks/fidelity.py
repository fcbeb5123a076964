"""Whether the engine gives the tokens of transformers in float32 on the same weights.

    python benchmarks/fidelity.py MODEL [options of mii serve] [--text FILE] [--requests 32] [--new-tokens 64]
        [--save DIR]

The engine goes on greedily after prompts of many lengths, all at once. transformers, in float32 on the same
device, then reads each prompt with what the engine wrote. A step is the same if the engine's token is its
likeliest. Where it is not, the gap between the two in transformers' logits is held against the noise of the
engine's dtype: the root mean square by which transformers' own logits change in it (in float64, if the engine
itself has float32). A gap of up to 6 times that is rounding; one above is an error, and so is a share of the
same steps below 0.99: exit code 1. Without --text the prompts are Python's own source code. Prints one JSON
object; --save appends it to a dated file.
"""

import argparse
import os
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import results
from mii.core import SamplingParams
from mii.engine.leading import open_engine
from mii.server.serve import engine_config
from mii_spec.launch import ServerArgs, add_arguments, from_namespace
from offline import as_dict
from quantization import free_device, run, text_tokens, tokens_of
from truth import load_transformers

LEAST_SHARE = 0.99
MOST_NOISE = 6.0  # root mean squares
LONGEST = 700  # tokens of a prompt


@dataclass(frozen=True)
class Divergence:
    request: int
    step: int
    rank: int  # of the engine's token in transformers' order, 0 being the likeliest
    gap: float  # between the likeliest token's logit and the engine's token's


def main() -> int:
    options = parser().parse_args()
    torch.set_float32_matmul_precision("highest")  # no TF32
    with closing(open_engine(engine_config(from_namespace(ServerArgs, options)))) as engine:
        prompts = draw(options)
        params = SamplingParams(max_tokens=options.new_tokens, temperature=0.0, ignore_eos=True)
        written = [tokens_of(outputs) for outputs in run(engine, prompts, [params] * len(prompts))]
        info, device = as_dict(engine), engine.runner.device
    del engine
    free_device()
    exact = logits_of(options.model, "float32", device, prompts, written)
    other = logits_of(options.model, noise_dtype(info["dtype"]), device, prompts, written)
    result = {"bench": "fidelity", "engine": info} | compare(written, exact, other)
    results.report(result, options.save)
    return int(result["same"] < LEAST_SHARE or result["unexplained"] > 0)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(made, ServerArgs)
    made.add_argument("--text", type=Path, default=Path(os.__file__), metavar="FILE")
    made.add_argument("--requests", type=int, default=32)
    made.add_argument("--new-tokens", type=int, default=64)
    made.add_argument("--save", type=Path, metavar="DIR")
    return made


def draw(options: argparse.Namespace) -> list[list[int]]:
    """Pieces of the text, of 1 to LONGEST tokens."""
    tokens = text_tokens(options)
    if len(tokens) < LONGEST + options.requests:
        raise SystemExit(f"{options.text}: {len(tokens)} tokens are less than {LONGEST + options.requests}")
    lengths = [1 + index * (LONGEST - 1) // max(1, options.requests - 1) for index in range(options.requests)]
    step = max(1, (len(tokens) - LONGEST) // options.requests)
    return [tokens[index * step : index * step + length] for index, length in enumerate(lengths)]


def noise_dtype(dtype: str) -> str:
    """What transformers runs in a second time, beside float32, to show what rounding to `dtype` does."""
    return "float64" if dtype == "float32" else dtype


@torch.inference_mode()
def logits_of(
    name: str, dtype: str, device: torch.device, prompts: list[list[int]], written: list[list[int]]
) -> list[Tensor]:
    """Of each request the logits before each new token, [new tokens, vocab] float32 on the CPU."""
    model = load_transformers(name, dtype, device)
    found = []
    for prompt, tokens in zip(prompts, written, strict=True):
        read = torch.tensor([prompt + tokens[:-1]], device=device)
        found.append(model(read).logits[0, len(prompt) - 1 :].float().cpu())
    return found


def compare(written: list[list[int]], exact: list[Tensor], other: list[Tensor]) -> dict[str, Any]:
    noise = float(
        torch.cat([(a - b).flatten() for a, b in zip(exact, other, strict=True)]).square().mean().sqrt()
    )
    found = [
        divergence
        for request, (tokens, logits) in enumerate(zip(written, exact, strict=True))
        for divergence in divergences(request, tokens, logits)
    ]
    steps = sum(map(len, written))
    return {
        "steps": steps,
        "same": 1 - len(found) / steps,
        "noise": noise,
        "largest_gap": max((it.gap for it in found), default=0.0),
        "unexplained": sum(it.gap > MOST_NOISE * noise for it in found),
        "divergences": [asdict(it) for it in found],
    }


def divergences(request: int, tokens: list[int], logits: Tensor) -> list[Divergence]:
    """logits [steps, vocab]: transformers', in float32."""
    own = logits.gather(1, torch.tensor(tokens)[:, None])
    ranks, gaps = (logits > own).sum(1).tolist(), (logits.max(1, keepdim=True).values - own)[:, 0].tolist()
    return [Divergence(request, step, rank, gaps[step]) for step, rank in enumerate(ranks) if rank]


if __name__ == "__main__":
    sys.exit(main())
