"""`mii bench URL`."""

import argparse

from rich.console import Console

from mii.bench.options import add_arguments, from_namespace
from mii.openai_client import RequestFailed

USAGE_ERROR = 2
INTERRUPTED = 130


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
    """Returns the exit code: 0, 1 after failed requests, 2 for contradicting options, 130 after Ctrl-C."""
    log = Console(stderr=True)
    try:
        bench = from_namespace(args)
    except ValueError as error:
        complain(log, error)
        return USAGE_ERROR
    from mii.bench.session import Session  # matplotlib and grpc: not for `mii --help`

    try:
        return Session(bench, log).run()
    except RequestFailed as error:
        complain(log, error)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def complain(log: Console, error: Exception) -> None:
    log.print(f"mii bench: {error}", style="red", markup=False, highlight=False)
