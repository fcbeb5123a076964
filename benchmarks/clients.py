"""`mii bench` over DeepSpeed-FastGen's workloads, one after another.

    python benchmarks/clients.py URL [options of mii bench] [--jsonl FILE] [--plot FILE.png]

Every option is that of `mii bench`; --plot writes FILE-1200-60.png and so on, a figure per workload.
"""

import argparse
import sys
from pathlib import Path

from mii.bench.command import run
from mii.bench.options import add_arguments
from mii.bench.workload import FASTGEN
from mii.errors import MIIError

INTERRUPTED = 130


def main() -> int:
    """The highest exit code of the workloads; failed requests in one do not keep the next from running."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_arguments(parser)
    args = parser.parse_args()
    if args.workload or args.prompt_tokens or args.new_tokens:
        parser.error("the workloads are fixed here; `mii bench` takes lengths")
    try:
        return max(run(of_workload(args, workload)) for workload in FASTGEN)
    except MIIError as error:
        print(f"clients.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def of_workload(args: argparse.Namespace, workload: str) -> argparse.Namespace:
    return argparse.Namespace(**vars(args) | {"workload": workload, "plot": plot_of(args.plot, workload)})


def plot_of(path: Path | None, workload: str) -> Path | None:
    """curve.png → curve-1200-60.png"""
    return path and path.with_name(f"{path.stem}-{workload.replace('/', '-')}{path.suffix}")


if __name__ == "__main__":
    sys.exit(main())
