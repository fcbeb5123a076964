"""Products of few tokens on a Hopper GPU: is the way in which each weight is cut the fastest one?

    python benchmarks/tilings.py [--weights 4096x4096,1024x4096] [--tokens 8,64] [--save DIR]

Times every tiling that mii_kernels/cuda/skinny_gemm.py could choose for a weight [n, k] and so many tokens,
in bfloat16, and prints a JSON object a line: the microseconds of each (`us`, by rows and splits), the one
chosen and its time over the fastest one's (`over_fastest`), and what PyTorch takes (`torch_us`). Each result
is compared with float64 before it is timed. The constants there are fitted to such rows. Needs a GPU of
compute capability 9.0: exit code 2 without one.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import results
from kernels import MAX_SETS, time_us
from mii_kernels import _lib, reference
from mii_kernels._lib import Library
from mii_kernels.cuda import arguments, skinny_gemm
from mii_kernels.cuda.skinny_gemm import Tiling

WEIGHTS = (
    "6144x4096,4096x4096,28672x4096,4096x14336,14336x4096,1024x4096,2048x2048,2560x2560,10240x2560,2560x10240,"
    "576x576,1536x576,576x1536,512x4096,8192x1024,3072x4096,4096x2048,4096x7168"
)
ROTATED_BYTES = 128 * 2**20  # more than twice the L2 cache
TOLERANCE = 5e-3  # of the norm of the difference


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=weights, default=WEIGHTS, metavar="NxK,...")
    parser.add_argument("--tokens", type=tokens, default="8,16,32,64", metavar="N,...")
    parser.add_argument("--save", type=Path, metavar="DIR")
    options = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability(0) != (9, 0):
        print("benchmarks/tilings.py: needs a GPU of compute capability 9.0", file=sys.stderr)
        return 2
    library, device = _lib.load(0), torch.device("cuda", 0)
    for n, k in options.weights:
        for count in options.tokens:
            results.report(measure(library, device, count, n, k), options.save)
    return 0


def weights(text: str) -> list[tuple[int, int]]:
    return [weight(part) for part in text.split(",")]


def weight(text: str) -> tuple[int, int]:
    n, _, k = text.partition("x")
    if not (n.isdecimal() and k.isdecimal() and int(n) > 0 and int(k) > 0 and int(k) % 64 == 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not NxK, rows and columns, of these a multiple of 64")
    return int(n), int(k)


def tokens(text: str) -> list[int]:
    for part in text.split(","):
        if not part.isdecimal() or not 1 <= int(part) <= skinny_gemm.MAX_TOKENS:
            raise argparse.ArgumentTypeError(f"{part!r} is not a number from 1 to {skinny_gemm.MAX_TOKENS}")
    return [int(part) for part in text.split(",")]


def measure(library: Library, device: torch.device, tokens: int, n: int, k: int) -> dict[str, Any]:
    sets = operands(device, tokens, n, k)
    exact = sets[0][0].double() @ sets[0][1].double().T
    times = {it: time_tiling(library, sets, exact, it) for it in skinny_gemm.tilings(tokens, n, k)}
    chosen = skinny_gemm.tiling(tokens, n, k, arguments.multiprocessors(device))
    return {
        "bench": "tilings",
        "tokens": tokens,
        "n": n,
        "k": k,
        "chosen": name(chosen),
        "over_fastest": round(times[chosen] / min(times.values()), 3),
        "us": {name(it): round(us, 2) for it, us in times.items()},
        "torch_us": round(time_us(lambda x, weight: reference.linear(x, weight, None), sets), 2),
    }


def operands(device: torch.device, tokens: int, n: int, k: int) -> list[tuple[Tensor, Tensor]]:
    """x [tokens, k] and weight [n, k], as often as L2 cannot hold."""
    count = min(MAX_SETS, max(3, ROTATED_BYTES // (2 * n * k)))
    made = [torch.randn(rows, k, device=device).bfloat16() for _ in range(count) for rows in (tokens, n)]
    return list(zip(made[::2], made[1::2], strict=True))


def time_tiling(library: Library, sets: list[tuple[Tensor, Tensor]], exact: Tensor, tiling: Tiling) -> float:
    """exact [tokens, n] float64: the product of the first set."""
    x, weight = sets[0]
    error = float((skinny_gemm.tiled(library, x, weight, None, tiling) - exact).norm() / exact.norm())
    if not error < TOLERANCE:
        raise SystemExit(f"{name(tiling)} of {tuple(weight.shape)} by {len(x)}: an error of {error:.2g}")
    return time_us(lambda x, weight: skinny_gemm.tiled(library, x, weight, None, tiling), sets)


def name(tiling: Tiling) -> str:
    return f"{tiling.rows}/{tiling.splits}"


if __name__ == "__main__":
    sys.exit(main())
