"""The command `mii`: which module each subcommand lives in, and how failures end."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from mii.errors import MIIError

# Module and function that add a subcommand's parser and set its `run`: parsed arguments to exit code.
COMMANDS = {
    "serve": ("mii.serve_command", "add_parser"),
    "up": ("mii.local.up", "add_parser"),
    "down": ("mii.local.commands", "add_down_parser"),
    "list": ("mii.local.commands", "add_list_parser"),
    "chat": ("mii.chat", "add_parser"),
    "fetch": ("mii.fetch_command", "add_parser"),
    "bench": ("mii.bench.command", "add_parser"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 (it failed), 2 (wrong usage or manifest), 130 (Ctrl-C)."""
    # gRPC's handlers for fork() only log that they were skipped: these processes fork to exec at once.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    words = sys.argv[1:] if argv is None else list(argv)
    args = _parser(words).parse_args(words)
    try:
        code: int = args.run(args)
    except (MIIError, OSError) as error:
        print(f"mii {args.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """With the subcommand at hand alone, so that `mii list` does not wait for what `mii bench` imports."""
    parser = argparse.ArgumentParser(
        prog="mii", description="Serve open LLMs, on this machine or on Kubernetes.", allow_abbrev=False
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = [name for name in COMMANDS if name in words[:1]] or list(COMMANDS)
    for name in wanted:
        module, function = COMMANDS[name]
        getattr(importlib.import_module(module), function)(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
