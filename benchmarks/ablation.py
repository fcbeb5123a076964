"""What each part of the engine buys: whole runs without it.

    python benchmarks/ablation.py MODEL|--shape NAME [options of mii serve] [--requests 128]
        [--prompt-tokens 1200] [--new-tokens 128] [--stream-tokens 64] [--spread 0.3] [--seed 0]
        [--sampling greedy] [--only PART,...] [--limit 4] [--save DIR]

One process loads the weights once, and makes an engine over them for each row: with everything on, then
without one part each:

    cuda_graphs, overlap    switched off
    an operation's name     its kernel's place is taken by PyTorch's operations (mii_kernels.reference)
    kernels                 all kernels at once

Operations are those of mii_kernels.ops that have a kernel and that the model calls in these runs. Where
PyTorch's operations cannot be captured, CUDA graphs are off, too: `cuda_graphs` in the row says so. Without a
GPU there are neither kernels nor graphs.

Each engine first continues some short prompts greedily: same_first is the share of them whose first token is
that of the engine with everything on, same_tokens that of all tokens before the first that differs. Random
weights leave tokens so close to each other that rounding alone makes some differ. Then it runs one stream of
--stream-tokens, and all requests at once, with lengths from N(mean, spread * mean). What takes more than
--limit times as long as with everything on is broken off: its row has the seconds after which, `cut_after`,
in the place of figures. Prints one JSON object a row; --save also appends them to a dated file in DIR.
"""

import argparse
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import msgspec

import results
import shapes
from ablation_engines import CHECKED, Limits, Probe, Variant, Workload, agreement, measured, probed
from mii.config import EngineConfig
from mii.engine.loading import find_model, load_model
from mii.server.serve import engine_config
from mii_kernels import cuda
from mii_spec.launch import ServerArgs, add_arguments, from_namespace
from offline import add_workload, described, draw, unusual
from quantization import Windows, free_device
from truth import Request


def main() -> int:
    with shapes.in_argv(sys.argv[1:]) as argv:
        options = parsed(argv)
        for row in rows(options):
            results.report(row, options.save)
    return 0


def parsed(argv: list[str]) -> Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(made, ServerArgs)
    add_workload(made, requests=128, prompt_tokens=1200, new_tokens=128, spread=0.3)
    made.add_argument("--stream-tokens", type=int, default=64, help="of the one stream, at least 2")
    made.add_argument("--only", type=lambda text: text.split(","), metavar="PART,...", help="default: each")
    made.add_argument("--limit", type=float, default=4.0, help="times as long as with everything on")
    options = made.parse_args(argv)
    if options.stream_tokens < 2:
        made.error("--stream-tokens must be at least 2: it is the time between tokens that counts")
    if options.limit <= 0:
        made.error("--limit must be more than 0")
    if options.tensor_parallel != 1:
        made.error("--tensor-parallel: one GPU, as the other ranks' kernels are not chosen here")
    return options


def rows(options: Namespace) -> Iterator[dict[str, Any]]:
    """Each as soon as it is measured, the one with everything on first."""
    args = from_namespace(ServerArgs, options)
    config = engine_config(args)
    config = msgspec.structs.replace(config, overlap=config.overlap is not False)  # also on a CPU
    loaded = load_model(config, find_model(config))
    workload = drawn(options, loaded.description.vocab_size)
    probe = probed(config, loaded, workload, options.sampling)
    if not probe.kernels:
        print(f"{loaded.device} runs none of our kernels: no rows of kernels or graphs", file=sys.stderr)
    whole: dict[str, Any] = {}
    expected: Windows = []
    limits = Limits()
    for variant in chosen(variants(config, probe), options.only):
        free_device()  # of the engine before
        row = {"bench": "ablation", "options": unusual(args)} | described(options)
        found, tokens = measured(variant, loaded, workload, options.sampling, limits)
        found["engine"]["model"] = options.served_model_name or found["engine"]["model"]
        if variant.off is None:
            whole, expected, limits = found, tokens, limits_of(found, options.limit)
        yield row | found | agreement(expected, tokens) | ratios(found, whole)


def variants(config: EngineConfig, probe: Probe) -> list[Variant]:
    """Without each part that is on."""
    replace = msgspec.structs.replace
    found = [Variant(None, config)]
    if probe.cuda_graphs:
        found.append(Variant("cuda_graphs", replace(config, cuda_graphs=False)))
    if config.overlap:
        found.append(Variant("overlap", replace(config, overlap=False)))
    found += [Variant(name, config, (name,)) for name in probe.kernels]
    return found + ([Variant("kernels", config, cuda.NAMES)] if probe.kernels else [])


def chosen(every: list[Variant], only: list[str] | None) -> list[Variant]:
    """With the first one, which all others are compared with."""
    names = [variant.off for variant in every if variant.off]
    if unknown := set(only or ()) - set(names):
        raise SystemExit(
            f"--only {','.join(sorted(unknown))}: what can be left out here is {', '.join(names)}"
        )
    return [variant for variant in every if only is None or variant.off in (None, *only)]


def drawn(options: Namespace, vocab_size: int) -> Workload:
    def draws(**other: Any) -> list[Request]:
        return draw(Namespace(**vars(options) | other), vocab_size)

    [stream] = draws(requests=1, new_tokens=options.stream_tokens, spread=0.0)
    return Workload([prompt for prompt, _ in draws(**CHECKED)], stream, draws())


def limits_of(whole: dict[str, Any], times: float) -> Limits:
    return Limits(times * whole["stream"]["seconds"], times * whole["seconds"])


def ratios(row: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """`of_all`: how fast it is, where 1 is with everything on; of requests, and of a stream's tokens."""
    stream = row["stream"] | of_all(row["stream"], whole["stream"], "itl_p50")
    return {"stream": stream} | of_all(row, whole, "seconds")


def of_all(run: dict[str, Any], whole: dict[str, Any], field: str) -> dict[str, float]:
    """Of a run that was broken off, what it is below."""
    if "cut_after" in run:
        return {"of_all_below": whole["seconds"] / run["cut_after"]}
    return {"of_all": whole[field] / run[field]}


if __name__ == "__main__":
    sys.exit(main())
