"""The command `mii`: which module each subcommand lives in, and how failures end."""

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from mii.errors import MIIError

# Module and function that add a subcommand's parser and set its `run`: parsed arguments to exit code.
COMMANDS = {
    "serve": ("mii.serve_command", "add_parser"),
    "up": ("mii.local.up", "add_parser"),
    "down": ("mii.local.commands", "add_down_parser"),
    "list": ("mii.local.commands", "add_list_parser"),
    "status": ("mii.cluster.status_command", "add_parser"),
    "chat": ("mii.chat", "add_parser"),
    "fetch": ("mii.fetch_command", "add_parser"),
    "bench": ("mii.bench.command", "add_parser"),
}


PLUGIN_COMMANDS = {"status": COMMANDS["status"]}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 (it failed), 2 (wrong usage or manifest), 130 (Ctrl-C), or the command's own."""
    return _run("mii", COMMANDS, argv)


def kubectl_plugin(argv: Sequence[str] | None = None) -> int:
    """`kubectl mii …`, for which kubectl runs the program kubectl-mii. The exit code, as of `mii`."""
    return _run("kubectl mii", PLUGIN_COMMANDS, argv)


def _run(program: str, commands: Mapping[str, tuple[str, str]], argv: Sequence[str] | None) -> int:
    # gRPC's handlers for fork() only log that they were skipped: these processes fork to exec at once.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        return _run_command(program, commands, sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:  # perhaps while the subcommand was still being imported
        return 130


def _run_command(program: str, commands: Mapping[str, tuple[str, str]], words: Sequence[str]) -> int:
    args = _parser(program, commands, words).parse_args(words)
    try:
        code: int = args.run(args)
    except (MIIError, OSError) as error:
        print(f"{program} {args.command}: error: {error}", file=sys.stderr)
        return 1
    return code


def _parser(
    program: str, commands: Mapping[str, tuple[str, str]], words: Sequence[str]
) -> argparse.ArgumentParser:
    """With the subcommand at hand alone, so that `mii list` does not wait for what `mii bench` imports."""
    parser = argparse.ArgumentParser(
        prog=program, description="Serve open LLMs, on this machine or on Kubernetes.", allow_abbrev=False
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = [name for name in commands if name in words[:1]] or list(commands)
    for name in wanted:
        module, function = commands[name]
        getattr(importlib.import_module(module), function)(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
