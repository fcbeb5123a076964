"""`mii bench` over DeepSpeed-FastGen's workloads, one after another.

    python benchmarks/clients.py URL [options of mii bench] [--jsonl FILE] [--plot FILE.png]

Every option is that of `mii bench`; --plot writes FILE-1200-60.png and so on, a figure per workload.
"""

import argparse
import sys
from pathlib import Path

from mii.bench.command import INTERRUPTED, run
from mii.bench.options import add_arguments
from mii.bench.workload import FASTGEN


def main() -> int:
    """The highest exit code of the workloads; one that fails does not keep the next from running."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_arguments(parser)
    args = parser.parse_args()
    if args.workload or args.prompt_tokens or args.new_tokens:
        parser.error("the workloads are fixed here; `mii bench` takes lengths")
    codes = []
    for workload in FASTGEN:
        one = {"workload": workload, "plot": plot_of(args.plot, workload)}
        codes.append(run(argparse.Namespace(**vars(args) | one)))
        if codes[-1] == INTERRUPTED:
            break
    return max(codes)


def plot_of(path: Path | None, workload: str) -> Path | None:
    """curve.png → curve-1200-60.png"""
    return path and path.with_name(f"{path.stem}-{workload.replace('/', '-')}{path.suffix}")


if __name__ == "__main__":
    sys.exit(main())
