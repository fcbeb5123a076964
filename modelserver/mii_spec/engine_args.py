"""`spec.engine.args`: the server's options that have no field of their own."""

import argparse
import functools
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import NoReturn

from mii_spec import launch
from mii_spec.errors import FieldError
from mii_spec.launch import ServerArgs

PATH = "spec.engine.args"

# Options that the plan sets, and the field to use instead.
OWNED = {
    "revision": "spec.revision",
    "served_model_name": "spec.servedName",
    "deployment_name": "metadata.name",
    "host": "the operator",
    "port": "the operator",
    "grpc_port": "the operator",
    "device": "spec.gpus",
    "dtype": "spec.engine.dtype",
    "max_model_len": "spec.engine.maxModelLen",
    "token_budget": "spec.engine.tokenBudget",
    "kv_memory_fraction": "spec.engine.kvMemoryFraction",
    "tensor_parallel": "spec.tensorParallel",
    "quantization": "spec.engine.quantization",
    "drain_timeout": "spec.rollout.drainTimeout",
    "owner_token_file": "the operator",
}


def parse(args: Sequence[str]) -> ServerArgs:
    """The arguments as options over the defaults, with an empty model. Raises ValueError on a bad one."""
    return launch.from_namespace(ServerArgs, _parser().parse_args(["", *args]))


def check(args: Sequence[str]) -> Iterator[FieldError]:
    """Refuses what the server does not know, what it would not accept, and what other fields set."""
    owned = [(index, field) for index, field in enumerate(map(_owner, args)) if field]
    yield from (
        FieldError(f"{PATH}[{index}]", f"{_flag(args[index])} is set by {field}") for index, field in owned
    )
    if not owned:
        try:
            parse(args)
        except ValueError as error:
            yield FieldError(PATH, f"{error}; may be: {', '.join(allowed_flags())}")


def allowed_flags() -> list[str]:
    names = (spec.name for spec in fields(ServerArgs) if not spec.metadata.get("positional"))
    return [launch.flag(name) for name in names if name not in OWNED]


def _owner(arg: str) -> str | None:
    return (
        OWNED.get(_flag(arg).removeprefix("--").removeprefix("no-").replace("-", "_"))
        if arg.startswith("--")
        else None
    )


def _flag(arg: str) -> str:
    return arg.partition("=")[0]


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


@functools.cache
def _parser() -> _Parser:
    """Made once: it takes 0.4 ms, and the operator parses twice at every look at a resource."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    launch.add_arguments(parser, ServerArgs)
    return parser
