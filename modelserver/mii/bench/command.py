"""`mii bench URL`."""

import argparse
import sys

from mii.bench.options import add_arguments, from_namespace

USAGE_ERROR = 2


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "bench",
        help="measure throughput and latency of a server under load",
        description="Closed-loop clients against an OpenAI-compatible or MII endpoint: each client sends its "
        "next request when its last one has ended. $MII_API_KEY, if set, is sent as the bearer token.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0, 1 if a request failed, 2 for contradicting options. Raises RequestFailed if none answers."""
    try:
        bench = from_namespace(args)
    except ValueError as error:
        print(f"mii bench: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    from mii.bench.session import Session  # matplotlib and grpc: not for `mii --help`

    return Session(bench).run()
