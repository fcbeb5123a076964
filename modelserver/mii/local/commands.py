"""`mii list` and `mii down NAME`: the deployments that run on this machine."""

import argparse
import sys

from rich.console import Console
from rich.table import Table

from mii.local import state


def add_list_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser("list", help="list the deployments that run on this machine")
    parser.set_defaults(run=run_list)


def add_down_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "down",
        help="end a deployment that runs on this machine",
        description="Ends a deployment of `mii up` or mii.serve: its gateway finishes what runs, then "
        "everything stops.",
    )
    parser.add_argument("name", help="the deployment's name, as `mii list` shows it")
    parser.set_defaults(run=run_down)


def run_list(args: argparse.Namespace) -> int:
    """Always 0. A table on a terminal, else one line a deployment with tabs between the columns."""
    del args
    rows = [
        (
            r.name,
            r.model,
            str(r.replicas),
            f"http://{r.host}:{r.http_port}",
            f"{r.host}:{r.grpc_port}",
            str(r.pid),
        )
        for r in state.running()
    ]
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return 0
    table = Table("name", "model", "replicas", "HTTP", "gRPC", "process", box=None)
    for row in rows:
        table.add_row(*row)
    Console().print(table if rows else "no deployment runs here; `mii up -f FILE` starts one")
    return 0


def run_down(args: argparse.Namespace) -> int:
    """0 when it is gone. Raises DeploymentNotFoundError, listing what runs."""
    from mii.clients import client

    with client(args.name) as running:
        running.terminate_server()
    return 0
