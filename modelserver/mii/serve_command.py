"""`mii serve MODEL`: one model server in the foreground. (A module `mii.serve` would hide the function.)"""

import argparse

from mii_spec.launch import ServerArgs, add_arguments, from_namespace


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "serve",
        help="serve one model over HTTP and gRPC",
        description="Serves one model over HTTP (OpenAI's API and POST /mii/NAME) and gRPC, until Ctrl-C.",
        allow_abbrev=False,
    )
    add_arguments(parser, ServerArgs)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The server's exit code: 0 after an orderly end, 1 when the model cannot be loaded."""
    from mii.server.serve import run as serve

    return serve(from_namespace(ServerArgs, args))
