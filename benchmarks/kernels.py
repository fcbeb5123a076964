"""Each operation on a GPU: how long it takes, and what share of the card's own speed that is.

    python benchmarks/kernels.py [--kernels cuda,torch] [--op rms_norm,sample] [--dtype bfloat16]
        [--shape llama-3-8b] [--save DIR]

Prints one JSON object a line; --save also appends them to a dated file in DIR. First the roofline, measured
here: a large copy and a large product. Then for each case and each of `cuda` (our kernels) and `torch` (the
references): the median time of a call, from replays of a CUDA graph (or calls, of a reference that waits
for the device) that go around among input sets larger together than the L2 cache; the bandwidth, counting
every input and output once; its share of the copy's; for attention, the linears and experts the same of
arithmetic and the product; and the error against float64, ‖out - exact‖ / ‖exact‖, or for tokens and
counts the share that differs from the reference's. Needs a CUDA device: exit code 2 without one.

Sizes are Mistral-7B's, with Llama 3's vocabulary and Mixtral's experts; with --shape those of one model of
shapes.py, which each row then names as `model`. Experts are left out where it has none, gated products where
its MLP has no gate; norms, activations and products of a dense MLP are of its widths, whichever it uses.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import results
from kernel_case import Case, Inputs, Sizes, sizes_of
from logits_cases import logits_cases
from mii_kernels import _lib, cuda, reference
from quantised_cases import quantised_cases
from shapes import SHAPES
from tensor_core_cases import tensor_core_cases
from token_cases import token_cases

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
ROTATED_BYTES = 256 * 2**20  # several times the L2 cache of a data-centre GPU
MAX_SETS = 64
REPLAYS = 30
COPIED_BYTES = 2**30
PRODUCT_SIZE = 8192


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", default="cuda,torch", help="which of cuda and torch, with commas")
    parser.add_argument("--op", default="", help="operations, with commas; default: all")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--shape", choices=SHAPES, help="the model whose sizes to take")
    parser.add_argument("--save", type=Path, metavar="DIR")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/kernels.py: torch sees no CUDA device here, and this measures one", file=sys.stderr)
        return 2
    device, dtype = torch.device("cuda", 0), DTYPES[options.dtype]
    backends = {name: backend(name) for name in options.kernels.split(",")}
    model = {"model": options.shape} if options.shape else {}
    context = {"bench": "kernels", "dtype": options.dtype} | model
    roofline = measure_roofline(device, dtype)
    results.report(context | {"op": "roofline", **roofline}, options.save)
    sizes = sizes_of(SHAPES[options.shape]) if options.shape else Sizes()
    for case in all_cases(sizes, dtype):
        if options.op and case.op not in options.op.split(","):
            continue
        for name, ops in backends.items():
            row = measure(case, ops, device, roofline)
            results.report(context | {"kernels": name} | row, options.save)
    return 0


def all_cases(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    kinds = (token_cases, logits_cases, tensor_core_cases, quantised_cases)
    return [*chain(*(make(sizes, dtype) for make in kinds))]


def backend(name: str) -> Any:
    if name == "torch":
        return reference
    if name == "cuda":
        return cuda.backend(_lib.load(0))
    raise SystemExit(f"--kernels {name!r} is none of cuda, torch")


def measure_roofline(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    elements = COPIED_BYTES // dtype.itemsize
    source = torch.randn(elements, device=device).to(dtype)
    target = torch.empty_like(source)
    copied = time_us(lambda x, y: y.copy_(x), [(source, target)])
    a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=device).to(dtype) for _ in range(2))
    multiplied = time_us(torch.matmul, [(a, b)])
    return {
        "copy_tb_s": round(2 * COPIED_BYTES / copied / 1e6, 3),
        "product_tflop_s": round(2 * PRODUCT_SIZE**3 / multiplied / 1e6, 1),
    }


def measure(
    case: Case, ops: SimpleNamespace, device: torch.device, roofline: dict[str, float]
) -> dict[str, Any]:
    wrong = error(case, ops, device)
    count = min(MAX_SETS, max(2, -(-ROTATED_BYTES // case.moved)))
    sets = [case.make(device) for _ in range(count)]
    capture = not (case.reference_waits and ops is reference)
    us = time_us(lambda *inputs: case.run(ops, *inputs), sets, capture=capture)
    found = {"op": case.op, "shape": case.shape, "error": wrong} | speed(
        case.moved, us, roofline["copy_tb_s"]
    )
    return found | arithmetic(case.flops, us, roofline["product_tflop_s"]) if case.flops else found


def speed(moved: int, us: float, copy_tb_s: float) -> dict[str, float]:
    tb_s = moved / us / 1e6
    return {"us": round(us, 2), "tb_s": round(tb_s, 3), "share_of_copy": round(tb_s / copy_tb_s, 3)}


def arithmetic(flops: int, us: float, product_tflop_s: float) -> dict[str, float]:
    tflop_s = flops / us / 1e6
    return {"tflop_s": round(tflop_s, 1), "share_of_product": round(tflop_s / product_tflop_s, 3)}


def error(case: Case, ops: Any, device: torch.device) -> float:
    """Of fresh inputs, before operations that work in place have changed them."""
    inputs = case.make(device)
    exact = case.exact(*(x.clone() if isinstance(x, Tensor) else x for x in inputs))
    out = case.run(ops, *inputs)
    if not out.is_floating_point():
        return float((out != exact).double().mean())
    return float((out.double() - exact).norm() / exact.norm())


def time_us(run: Callable[..., Any], sets: list[Inputs], *, capture: bool = True) -> float:
    """The median time of a call, over replays of a graph with one call for each set of inputs; where a graph
    cannot capture it, over the same calls one after another."""
    side = torch.cuda.Stream()  # a capture wants one, and what is first called in it must have run before
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for inputs in sets[:2] * 2:
            run(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    calls = _captured(run, sets) if capture else lambda: [run(*inputs) for inputs in sets]
    calls()
    return statistics.median(_elapsed_us(calls) for _ in range(REPLAYS)) / len(sets)


def _captured(run: Callable[..., Any], sets: list[Inputs]) -> Callable[[], Any]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for inputs in sets:
            run(*inputs)
    return graph.replay


def _elapsed_us(calls: Callable[[], Any]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    calls()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1000


if __name__ == "__main__":
    sys.exit(main())
