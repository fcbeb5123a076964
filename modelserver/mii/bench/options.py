"""The options of `mii bench`, parsed once into a frozen Bench."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from mii.bench.drivers import APIS, NAMES_MODELS, TAKES_TOKEN_IDS, Target
from mii.bench.workload import FASTGEN, SPREAD, Workload, parse_workload

DEFAULT_WORKLOAD = "256/64"
DEFAULT_CLIENTS = "1,2,4,8"
REQUESTS_PER_CLIENT = 4


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What to measure, and where to put it."""

    target: Target
    workload: Workload
    clients: tuple[int, ...]
    requests: int | None  # per level
    duration: float | None  # seconds per level; with neither: REQUESTS_PER_CLIENT requests for each client
    warmup: int  # requests before each level, not measured
    seed: int
    vocab: int | None
    jsonl: str | None  # "-" is standard output
    plot: Path | None

    def requests_at(self, clients: int) -> int | None:
        if self.requests is None and self.duration is None:
            return REQUESTS_PER_CLIENT * clients
        return self.requests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="http://HOST:PORT, or HOST:PORT of the gRPC service for mii-grpc")
    add("--api", choices=APIS, default="openai", help="default: openai, that is /v1/completions")
    add("--model", help="model name in the OpenAI APIs; default: the first of /v1/models")
    _add_load(parser)
    _add_lengths(parser)
    add("--timeout", type=_seconds, default=600.0, metavar="S", help="for a whole request (default: 600)")
    add("--jsonl", metavar="FILE", help="append a JSON object per level; - prints them instead of the table")
    add("--plot", type=Path, metavar="FILE.png", help="write the throughput-latency curve")


def from_namespace(args: argparse.Namespace) -> Bench:
    """Raises ValueError for options that contradict each other."""
    if args.vocab and args.api not in TAKES_TOKEN_IDS:
        raise ValueError(f"--vocab is for prompts of token ids, which --api {args.api} does not take")
    if args.model and args.api not in NAMES_MODELS:
        raise ValueError(f"--model is for the OpenAI APIs; --api {args.api} does not name models")
    target = Target(
        url=args.url,
        api=args.api,
        model=args.model,
        greedy=args.sampling == "greedy",
        exact=args.exact,
        timeout=args.timeout,
    )
    same = ("clients", "requests", "duration", "warmup", "seed", "vocab", "jsonl", "plot")
    return Bench(target=target, workload=_workload(args), **{name: getattr(args, name) for name in same})


def _add_load(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("load, per level").add_argument
    add(
        "--clients",
        type=_counts,
        default=_counts(DEFAULT_CLIENTS),
        metavar="N,N,…",
        help=f"the levels, run one after another (default: {DEFAULT_CLIENTS})",
    )
    add("--requests", type=_positive, metavar="N", help=f"default: {REQUESTS_PER_CLIENT} for each client")
    add("--duration", type=_seconds, metavar="S", help="start requests for S seconds, however many")
    add("--warmup", type=_count, default=1, metavar="N", help="requests before, not measured (default: 1)")


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "requests", f"lengths in tokens ~ N(mean, (spread · mean)²); default: {DEFAULT_WORKLOAD}"
    ).add_argument
    fastgen = ", ".join(FASTGEN)
    add("--workload", metavar="PROMPT/NEW", help=f"both means; DeepSpeed-FastGen's: {fastgen}")
    add("--prompt-tokens", type=_positive, metavar="MEAN")
    add("--new-tokens", type=_positive, metavar="MEAN")
    add("--spread", type=_spread, default=SPREAD, help=f"0 fixes the lengths (default: {SPREAD})")
    add("--seed", type=int, default=0, help="of lengths and prompts (default: 0)")
    add("--vocab", type=_positive, metavar="N", help="size, for token-id prompts (default: of /v1/info)")
    add("--sampling", choices=("greedy", "default"), default="greedy", help="default is the server's own")
    add(
        "--exact",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="send ignore_eos and a minimum of tokens, so that lengths are as drawn (not every server can)",
    )


def _workload(args: argparse.Namespace) -> Workload:
    if args.workload and (args.prompt_tokens or args.new_tokens):
        raise ValueError("give either --workload or --prompt-tokens and --new-tokens")
    both = parse_workload(args.workload or DEFAULT_WORKLOAD)
    return Workload(
        prompt_mean=args.prompt_tokens or both.prompt_mean,
        new_mean=args.new_tokens or both.new_mean,
        spread=args.spread,
    )


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def _positive(text: str) -> int:
    value = _count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is not allowed; at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def _spread(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
