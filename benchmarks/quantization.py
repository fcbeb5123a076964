"""What quantisation costs a model's answers: the quantised model beside the same one as it is.

    python benchmarks/quantization.py MODEL|--shape NAME [options of mii serve] [--text FILE]
        [--windows 16] [--window 512] [--new-tokens 64] [--save DIR]

Both run on the same device, one after the other; --quantization is fp8 unless it says otherwise. The text is
FILE's, cut into windows of so many tokens; without one it is what the unquantised model itself writes at
temperature 1, which suits any model, also one of random weights (--shape). Prints one JSON object:

    perplexity           of the text, by each: exp of the mean negative log-probability of its tokens
    logprob_difference   mean magnitude, over the text's tokens, in nats
    same_best            share of the text's places where both think the same token likeliest
    same_greedy          share of new tokens that are the same before the first that differs, when both go on
                         greedily after each window

--save also appends it to a dated file in DIR.
"""

import argparse
import gc
import math
import statistics
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import results
import shapes
from mii.core import EngineOutput, EngineRequest, SamplingParams
from mii.engine.engine import Engine
from mii.engine.leading import open_engine
from mii.models.snapshot import fetch
from mii.models.tokenizer import load_tokenizer
from mii.server.serve import engine_config
from mii_spec.launch import ServerArgs, add_arguments, from_namespace
from offline import as_dict

Windows = list[list[int]]  # of token ids


@dataclass(frozen=True)
class Scored:
    """What one model made of the windows, whose tokens count from each one's second."""

    logprobs: list[float]  # of the windows' tokens
    best: list[int]  # the likeliest token in the place of each
    continuations: Windows


def main() -> int:
    with shapes.in_argv(sys.argv[1:]) as argv:
        options = parser().parse_args(argv)
        result = bench(from_namespace(ServerArgs, options), options)
    results.report(result, options.save)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(made, ServerArgs)
    made.set_defaults(quantization="fp8")
    made.add_argument("--text", type=Path, metavar="FILE", help="default: what the model itself writes")
    made.add_argument("--windows", type=int, default=16, help="at most")
    made.add_argument("--window", type=int, default=512, help="tokens of each")
    made.add_argument("--new-tokens", type=int, default=64, help="after each window")
    made.add_argument("--save", type=Path, metavar="DIR")
    return made


def bench(args: ServerArgs, options: argparse.Namespace) -> dict[str, Any]:
    with closing(open_engine(engine_config(replace(args, quantization="none")))) as engine:
        windows = read(options) if options.text else written(engine, options)
        plain, plain_info = score(engine, windows, options.new_tokens), as_dict(engine)
    del engine
    free_device()
    with closing(open_engine(engine_config(args))) as engine:
        quantised, info = score(engine, windows, options.new_tokens), as_dict(engine)
    return {
        "bench": "quantization",
        "quantization": args.quantization,
        "text": options.text.name if options.text else "the unquantised model's own",
        "windows": len(windows),
        "tokens": len(plain.logprobs),
        "engine": info,
        "kv_blocks": {"none": plain_info["kv_blocks"], args.quantization: info["kv_blocks"]},
        "perplexity": {"none": perplexity(plain), args.quantization: perplexity(quantised)},
        **compare(plain, quantised),
    }


def text_tokens(options: argparse.Namespace) -> list[int]:
    """Of the file `--text`, by the model's tokenizer."""
    tokenizer = load_tokenizer(fetch(options.tokenizer or options.model, options.revision, weights=False))
    return tokenizer.encode(options.text.read_text())


def read(options: argparse.Namespace) -> Windows:
    """A last window that is not full is left out."""
    tokens = text_tokens(options)
    whole = range(0, len(tokens) - options.window + 1, options.window)
    windows = [tokens[start : start + options.window] for start in whole][: options.windows]
    if not windows:
        raise SystemExit(f"{options.text}: {len(tokens)} tokens are less than a window of {options.window}")
    return windows


def written(engine: Engine, options: argparse.Namespace) -> Windows:
    """The first token of each is drawn evenly from the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(engine.info.vocab_size, (options.windows, 1), generator=generator).tolist()
    length = options.window - 1
    params = [SamplingParams(max_tokens=length, seed=seed, ignore_eos=True) for seed in range(len(first))]
    outputs = run(engine, first, params)
    return [start + tokens_of(output) for start, output in zip(first, outputs, strict=True)]


def score(engine: Engine, windows: Windows, new_tokens: int) -> Scored:
    params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True, prompt_logprobs=1)
    outputs = run(engine, windows, [params] * len(windows))
    scores = [token for output in outputs for part in output for token in part.prompt_logprobs or ()]
    return Scored(
        [token.logprob for token in scores],
        [token.top[0][0] for token in scores],
        [tokens_of(output) for output in outputs],
    )


def run(engine: Engine, prompts: Windows, params: list[SamplingParams]) -> list[list[EngineOutput]]:
    """The outputs of each prompt, all of them at once."""
    outputs: list[list[EngineOutput]] = [[] for _ in prompts]
    for index, (prompt, sampling) in enumerate(zip(prompts, params, strict=True)):
        engine.add(EngineRequest(str(index), prompt, sampling))
    while engine.has_work():
        for output in engine.step():
            outputs[int(output.request_id)].append(output)
    return outputs


def tokens_of(outputs: list[EngineOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def perplexity(scored: Scored) -> float:
    return math.exp(-statistics.fmean(scored.logprobs))


def compare(plain: Scored, quantised: Scored) -> dict[str, float]:
    pairs = zip(plain.logprobs, quantised.logprobs, strict=True)
    both = zip(plain.best, quantised.best, strict=True)
    same = [alike(*pair) for pair in zip(plain.continuations, quantised.continuations, strict=True)]
    return {
        "logprob_difference": statistics.fmean(abs(a - b) for a, b in pairs),
        "same_best": statistics.fmean(a == b for a, b in both),
        "same_greedy": sum(same) / sum(map(len, plain.continuations)),
    }


def alike(left: list[int], right: list[int]) -> int:
    """Tokens before the first difference."""
    pairs = enumerate(zip(left, right, strict=True))
    return next((index for index, (a, b) in pairs if a != b), len(left))


def free_device() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
