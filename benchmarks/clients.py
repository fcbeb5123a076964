"""`mii bench` over DeepSpeed-FastGen's workloads, one after another.

    python benchmarks/clients.py URL [options of mii bench] [--jsonl FILE] [--plot FILE.png]
    python benchmarks/clients.py --shape NAME [--serve="options of mii serve"] […]

Every option is that of `mii bench`; --workload picks one of the workloads, and --plot writes FILE-1200-60.png
and so on, a figure per workload. --shape measures a `mii serve` of its own, whose weights are of that shape
and random (benchmarks/shapes.py).
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import shapes
from mii.bench.command import run
from mii.bench.options import add_arguments
from mii.bench.workload import FASTGEN
from mii.errors import MIIError
from rig import HOST, free_ports, ready

INTERRUPTED = 130
LOAD_SECONDS = 600.0  # for a server to load its model


def main() -> int:
    """The highest exit code of the workloads; failed requests in one do not keep the next from running."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--shape", choices=shapes.SHAPES)
    own.add_argument("--serve", default="", metavar="OPTIONS")
    server, argv = own.parse_known_args()
    try:
        with contextlib.ExitStack() as stack:
            if server.shape:
                argv.insert(0, stack.enter_context(serving(server.shape, shlex.split(server.serve))))
            args = parse(argv)
            return max(run(of_workload(args, workload)) for workload in args.workload or FASTGEN)
    except MIIError as error:
        print(f"clients.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.prompt_tokens or args.new_tokens or args.workload not in (None, *FASTGEN):
        parser.error(f"the workloads are fixed here, {', '.join(FASTGEN)}; `mii bench` takes any lengths")
    args.workload = [args.workload] if args.workload else []
    return args


@contextlib.contextmanager
def serving(shape: str, options: list[str]) -> Iterator[str]:
    """The URL of a `mii serve` of that shape, which is ready. What it logs goes to standard error."""
    port, grpc_port = free_ports(2)
    with shapes.in_argv(["--shape", shape, *options]) as argv:
        where = [f"--host={HOST}", f"--port={port}", f"--grpc-port={grpc_port}"]
        process = subprocess.Popen([sys.executable, "-m", "mii.cli", "serve", *argv, *where])
        try:
            if not ready(process, f"http://{HOST}:{port}/health/ready", LOAD_SECONDS):
                raise SystemExit("the server did not become ready")
            yield f"http://{HOST}:{port}"
        finally:
            process.terminate()
            process.wait()


def of_workload(args: argparse.Namespace, workload: str) -> argparse.Namespace:
    return argparse.Namespace(**vars(args) | {"workload": workload, "plot": plot_of(args.plot, workload)})


def plot_of(path: Path | None, workload: str) -> Path | None:
    """curve.png → curve-1200-60.png"""
    return path and path.with_name(f"{path.stem}-{workload.replace('/', '-')}{path.suffix}")


if __name__ == "__main__":
    sys.exit(main())
